"""Scraped metrics: both formats, bounded labels, and the backlog in the database."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest
from bench import Bench
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from waiting import until

from holdfast.model.claim import Success
from holdfast.runtime.loop_lag import LoopLag
from holdfast.runtime.supervision import LoopSupervisor
from holdfast.scheduler.backlog_metrics import BacklogMetrics
from holdfast.telemetry.logs import create_logger
from holdfast.telemetry.metrics import Metrics

TRACE = "0af7651916cd43dd8448eb211c80319c"
OPEN = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def backlog_metrics_of(bench: Bench) -> tuple[BacklogMetrics, LoopSupervisor]:
    loops = LoopSupervisor(create_logger(stream=bench.log), bench.metrics)
    backlog = BacklogMetrics(bench.store, loops, bench.metrics)
    loops.stop()  # so that refresh() does not sleep
    return backlog, loops


def test_exemplars_appear_only_in_openmetrics() -> None:
    metrics = Metrics("worker")
    metrics.start_seconds.labels("default").observe(0.3, {"trace_id": TRACE})
    text, content_type = metrics.render(OPEN)
    assert content_type.startswith("application/openmetrics-text")
    samples = [sample for family in open_families(text.decode()) for sample in family.samples]  # type: ignore[no-untyped-call]
    exemplars = [sample.exemplar for sample in samples if sample.exemplar]
    assert [(each.labels, each.value) for each in exemplars] == [({"trace_id": TRACE}, 0.3)]
    plain, content_type = metrics.render("*/*")
    assert content_type.startswith("text/plain")
    assert TRACE not in plain.decode()
    names = {family.name for family in plain_families(plain.decode())}
    assert {"holdfast_build_info", "process_start_time_seconds"} <= names
    assert not [sample.name for sample in samples if sample.name.endswith("_created")]


def test_labels_stay_bounded() -> None:
    metrics = Metrics("api")
    for number in range(1000):
        metrics.submitted.labels(f"queue-{number}", "created").inc()
    sample = metrics.registry.get_sample_value
    name = "holdfast_tasks_submitted_total"
    assert sample(name, {"queue": "queue-1", "outcome": "created"}) == 1
    assert sample(name, {"queue": "other", "outcome": "other"}) == 700


def test_pool_gauge_is_read_on_each_scrape() -> None:
    metrics = Metrics("worker")
    used = [1]
    metrics.watch_pool("transactions", lambda: used[0], 10)
    sample = metrics.registry.get_sample_value
    assert sample("holdfast_db_pool_checked_out", {"pool": "transactions"}) == 1
    used[0] = 7
    assert sample("holdfast_db_pool_checked_out", {"pool": "transactions"}) == 7
    assert sample("holdfast_db_pool_size", {"pool": "transactions"}) == 10


async def test_backlog_metrics_by_queue(bench: Bench) -> None:
    backlog, _ = backlog_metrics_of(bench)
    await bench.submit("echo", "echo", queue="slow", priority=3)
    await bench.submit("echo", queue="slow")
    await bench.submit("echo", "echo")
    bench.sql("UPDATE tasks SET due_at = due_at + interval '1 h' WHERE queue = 'slow' AND id = "
              "(SELECT min(id::text)::uuid FROM tasks WHERE queue = 'slow')")  # fmt: skip
    bench.sql("UPDATE tasks SET due_at = due_at - interval '90 s' WHERE queue = 'default'")
    await backlog.refresh()
    assert bench.count("holdfast_backlog_tasks", queue="slow") == 2
    assert bench.count("holdfast_backlog_tasks", queue="default") == 2
    assert bench.count("holdfast_oldest_due_age_seconds", queue="default") == pytest.approx(90, 0.2)
    assert bench.count("holdfast_oldest_due_age_seconds", queue="slow") < 30
    await bench.hint()
    await backlog.refresh()
    assert bench.count("holdfast_backlog_tasks", queue="slow") == 0
    assert bench.count("holdfast_queued_tasks", queue="slow") == 2
    assert bench.count("holdfast_oldest_due_age_seconds", queue="default") >= 90
    bench.sql("DELETE FROM tasks")
    await backlog.refresh()
    assert bench.count("holdfast_queued_tasks", queue="slow") == 0
    assert bench.count("holdfast_oldest_due_age_seconds", queue="default") == 0


async def test_number_of_the_last_stale_write_is_shown(bench: Bench) -> None:
    backlog, _ = backlog_metrics_of(bench)
    worker = await bench.registered(immortal=True)
    (grant,) = await bench.claimed("a", worker=worker)
    await backlog.refresh()
    assert bench.count("holdfast_stale_write_number") == 0
    await bench.store.finish([Success(grant.task_id, grant.epoch + 2, "1")], worker)
    await backlog.refresh()
    ((number,),) = bench.sql("SELECT id FROM stale_writes")
    assert bench.count("holdfast_stale_write_number") == number


async def test_backlog_counts_stop_at_the_cap(bench: Bench) -> None:
    for priority in (0, 5):
        await bench.submit(*["echo"] * 30, priority=priority)
    backlog = await bench.store.backlog(20)
    assert [(depth.queue, depth.due) for depth in backlog.queues] == [("default", 20)]
    await bench.hint()
    backlog = await bench.store.backlog(20)
    assert [depth.queued for depth in backlog.queues] == [20]


async def test_backlog_metrics_count_dead_letters(bench: Bench) -> None:
    backlog, _ = backlog_metrics_of(bench)
    await backlog.refresh()
    assert bench.count("holdfast_dead_letter_tasks") == 0
    grants = await bench.claimed("echo", "echo")
    bench.sql(
        "UPDATE tasks SET state = 'FAILED', epoch = 2, worker_id = NULL, claim_token = NULL, "
        f"finished_at = clock_timestamp() WHERE id = '{grants[0].task_id}'"
    )
    await backlog.refresh()
    assert bench.count("holdfast_dead_letter_tasks") == 1


async def test_stale_write_number_includes_writes_of_dead_workers(bench: Bench) -> None:
    backlog, _ = backlog_metrics_of(bench)
    await backlog.refresh()
    assert bench.count("holdfast_stale_write_number") == 0
    worker = await bench.registered()
    (grant,) = await bench.claimed("echo", worker=worker)
    late = Success(grant.task_id, grant.epoch - 2, "1")
    assert not (await bench.store.finish([late], worker))[0].done
    await backlog.refresh()
    assert bench.count("holdfast_stale_write_number") == 1


async def test_queues_beyond_the_limit_share_one_label(bench: Bench) -> None:
    backlog, _ = backlog_metrics_of(bench)
    for number in range(103):
        await bench.submit("echo", queue=f"q{number:03}")
    await backlog.refresh()
    await backlog.refresh()
    assert bench.count("holdfast_backlog_tasks", queue="q099") == 1
    assert bench.count("holdfast_backlog_tasks", queue="other") == 3
    bench.sql("DELETE FROM tasks")
    await backlog.refresh()
    assert bench.count("holdfast_backlog_tasks", queue="other") == 0


async def test_blocking_call_shows_in_event_loop_lag(bench: Bench) -> None:
    loops = LoopSupervisor(create_logger(stream=bench.log), bench.metrics)
    LoopLag(loops, bench.metrics)
    running = asyncio.create_task(loops.run())
    lags = "holdfast_event_loop_lag_seconds_bucket"
    await until(lambda: bench.count(lags, le="+Inf") >= 1)
    assert bench.count(lags, le="0.25") == bench.count(lags, le="+Inf")
    time.sleep(1.0)  # noqa: ASYNC251 - blocks deliberately
    await until(lambda: bench.count(lags, le="+Inf") > bench.count(lags, le="0.25"))
    assert not loops.stalled()
    loops.stop()
    await running


async def test_loop_last_success_is_exported(bench: Bench) -> None:
    loops = LoopSupervisor(create_logger(stream=bench.log), bench.metrics)
    fail = asyncio.Event()

    async def iteration() -> None:
        if fail.is_set():
            raise ValueError(UUID(int=0))
        await loops.sleep(0.01)

    loops.add("dispatch", iteration, stalled_seconds=9)
    began = time.time()
    running = asyncio.create_task(loops.run())
    name = "holdfast_loop_last_success_timestamp_seconds"
    await until(lambda: bench.count(name, loop="dispatch") > began)
    fail.set()
    failed = {"loop": "dispatch", "result": "failed"}
    await until(lambda: bench.count("holdfast_loop_turns_total", **failed) >= 2)
    last = bench.count(name, loop="dispatch")
    await until(lambda: bench.count("holdfast_loop_turns_total", **failed) >= 3)
    assert bench.count(name, loop="dispatch") == last
    loops.stop()
    await running
