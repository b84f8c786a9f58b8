"""Load Holdfast at any URL with Locust: users, tags and load shapes.

    locust -f loadtest/locustfile.py --host http://127.0.0.1:8000
    locust -f loadtest/locustfile.py --host URL --headless -u 50 -r 10 -t 1m --shape spike
    locust -f loadtest/locustfile.py --host URL --tags submit watch
    locust -f loadtest/locustfile.py --master | --worker      (the only file they need)

``python loadtest/locustfile.py`` prints all options, those of this file under "Holdfast".
``locust --help`` does not: it exits before reading a locustfile.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import uuid4

import gevent
import locust.stats
from gevent.pool import Pool
from locust import FastHttpUser, LoadTestShape, User, events, tag, task
from locust.argument_parser import LocustArgumentParser, get_parser
from locust.env import Environment

KNOWN_IDS_MAX = 100
POLL_SECONDS = 0.05
WATCHES_MAX = 200
SHAPE_SECONDS = 300.0
CANCEL_AHEAD = timedelta(hours=1)
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})

# `python -m loadtest load` reads the history once per second for its progress line.
locust.stats.CSV_STATS_FLUSH_INTERVAL_SEC = 1


def _add_options(parser: LocustArgumentParser, **_: Any) -> None:
    group = parser.add_argument_group("Holdfast")

    def add(*names: str, secret: bool = False, **how: Any) -> None:
        action: Any = group.add_argument(*names, **how)
        # Locust's parser sets these for the web UI; an argument group does not.
        action.include_in_web_ui, action.is_secret = True, secret
        action.is_required = action.is_multiple = False

    add(
        "--shape",
        choices=("steady", "ramp", "spike", "soak", "none"),
        default="steady",
        help="Number of users over time, relative to -u. steady: all; ramp: ten equal steps over "
        "the run time; spike: a fifth, and all in the middle fifth of the run; soak: all, after a "
        "slow ramp (a tenth of the run, at most 5 minutes). Without -t, ramp and spike take 5 "
        "minutes, steady and soak run until stopped. none: no shape, so that the number can be "
        "changed during the run.",
    )
    add("--task-name", default="echo", help="Name of the tasks to submit; must be harmless.")
    add("--queue", default="default", help="Queue to submit to.")
    add("--payload-bytes", type=int, default=0, help="Padding of each payload in bytes.")
    add("--batch-size", type=int, default=100, help="Tasks per request of a BatchSubmitter.")
    add(
        "--submit-rate",
        type=float,
        default=10.0,
        help="Requests per second of each Submitter; 0: each as soon as the last has its response.",
    )
    add("--batch-rate", type=float, default=1.0, help="Requests per second of each BatchSubmitter.")
    add(
        "--watch-rate",
        type=float,
        default=2.0,
        help="Tasks per second of each Watcher; each is timed from its scheduled submit.",
    )
    add("--read-rate", type=float, default=5.0, help="Requests per second of each Reader.")
    add("--cancel-rate", type=float, default=2.0, help="Tasks per second of each Canceller.")
    add(
        "--effect-seconds",
        type=float,
        default=60.0,
        help="A watched task without an effect by then is a failure. Set -s (--stop-timeout) as "
        "high to complete open watches at the end of the run.",
    )
    add(
        "--run-id",
        default="",
        help="Stored in each payload as 'run', to identify the tasks of a run.",
    )
    add(
        "--holdfast-api-key",
        env_var="HOLDFAST_API_KEY",
        default="",
        secret=True,
        help="One of the server's HOLDFAST_API_KEYS.",
    )


class Pace:
    """A schedule of ``rate`` events per second, in Unix time.

    Missed events stay due and are not skipped (no coordinated omission).
    """

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate if rate > 0 else 0.0
        self.due = time.time()

    def take(self) -> float:
        """Return the next scheduled instant and advance the schedule."""
        due = self.due if self._gap else time.time()
        self.due = due + self._gap
        return due

    def wait(self) -> float:
        """Return the seconds until the next event is due."""
        return max(0.0, self.due - time.time())


class HoldfastUser(FastHttpUser):
    """Base of all users: options, API key, submit and read."""

    abstract = True
    rate_option: ClassVar[str]
    environment: Environment

    def on_start(self) -> None:
        options: Any = self.environment.parsed_options
        self.options = options
        self.pace = Pace(getattr(options, self.rate_option))
        key = options.holdfast_api_key
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def wait_time(self) -> float:
        """Return the seconds until the next request is due, however long the last one took."""
        return self.pace.wait()

    def body(self, run_at: datetime | None = None) -> dict[str, Any]:
        """Return a task of this run, due immediately or at ``run_at``."""
        payload = {"run": self.options.run_id, "ballast": "x" * self.options.payload_bytes}
        body = {"name": self.options.task_name, "queue": self.options.queue, "payload": payload}
        return body if run_at is None else {**body, "run_at": run_at.isoformat()}

    def submit(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Submit a task and return it as stored; None if the request failed.

        Each request has its own Idempotency-Key, as recommended to clients.
        """
        headers = {**self.headers, "Idempotency-Key": str(uuid4())}
        with self.client.post(
            "/tasks/", json=body, headers=headers, catch_response=True
        ) as response:
            if response.status_code == 201:
                return dict(response.json())
            response.failure(_unexpected(201, response))
        return None

    def read(self, task_id: str) -> dict[str, Any] | None:
        """Return the current task; None if the request failed."""
        with self.client.get(
            f"/tasks/{task_id}",
            headers=self.headers,
            name="/tasks/{task_id}",
            catch_response=True,
        ) as response:
            if response.status_code == 200:
                return dict(response.json())
            response.failure(_unexpected(200, response))
        return None


class Submitter(HoldfastUser):
    """Submits single tasks, due immediately."""

    weight = 10
    rate_option = "submit_rate"

    @tag("submit")
    @task
    def submit_one(self) -> None:
        """POST /tasks/."""
        self.pace.take()
        self.submit(self.body())


class BatchSubmitter(HoldfastUser):
    """Submits many tasks per request."""

    weight = 1
    rate_option = "batch_rate"

    @tag("batch")
    @task
    def submit_batch(self) -> None:
        """POST /tasks/batch; every task must be stored."""
        self.pace.take()
        tasks = [self.body() for _ in range(self.options.batch_size)]
        with self.client.post(
            "/tasks/batch", json={"tasks": tasks}, headers=self.headers, catch_response=True
        ) as response:
            if response.status_code != 200:
                response.failure(_unexpected(200, response))
                return
            refused = [each for each in response.json()["results"] if each["status"] != 201]
            if refused:
                response.failure(f"{len(refused)} of {len(tasks)} not stored: {refused[0]}"[:300])


class Watcher(HoldfastUser):
    """Submits a task and waits for its effect; ``EFFECT`` is timed from the scheduled submit.

    Submits stay on schedule while earlier tasks are pending. Beyond WATCHES_MAX pending tasks they
    queue here, and the waiting time counts.
    """

    weight = 2
    rate_option = "watch_rate"
    concurrency = WATCHES_MAX

    def on_start(self) -> None:
        super().on_start()
        self._watches = Pool(WATCHES_MAX)

    def on_stop(self) -> None:
        """Complete open watches within Locust's --stop-timeout."""
        self._watches.join(timeout=self.environment.stop_timeout or 0)
        self._watches.kill()

    @tag("watch")
    @task
    def watch(self) -> None:
        """POST /tasks/, then GET it until it is terminal."""
        self._watches.spawn(self._follow, self.pace.take())

    def _follow(self, due: float) -> None:
        stored = self.submit(self.body())
        answered = time.time()
        if stored is None:
            self._report(due, answered - due, RuntimeError("not stored"))
            return
        while (ended := self._ended(stored["id"])) is None:
            waited = time.time() - due
            if waited > self.options.effect_seconds:
                self._report(due, waited, RuntimeError(f"no effect within {waited:.0f} s"))
                return
            # Polls load the system under test: poll less often as the wait grows.
            gevent.sleep(max(POLL_SECONDS, waited / 10))
        seen = time.time()
        # Both are upper bounds, independent of clock differences; the second excludes the delay
        # between polls.
        took = min(seen, answered + _seconds_to_finish(ended)) - due
        failure = None if ended["state"] == "SUCCEEDED" else RuntimeError(f"state {ended['state']}")
        self._report(due, took, failure)

    def _ended(self, task_id: str) -> dict[str, Any] | None:
        found = self.read(task_id)
        return found if found is not None and found["state"] in TERMINAL else None

    def _report(self, due: float, seconds: float, failure: Exception | None) -> None:
        self.environment.events.request.fire(  # type: ignore[no-untyped-call]
            request_type="EFFECT",
            name="submit due -> effect",
            response_time=seconds * 1000,
            response_length=0,
            exception=failure,
            context={},
            start_time=due,
            url=None,
            response=None,
        )


class Canceller(HoldfastUser):
    """Submits a task for an hour ahead and cancels it."""

    weight = 1
    rate_option = "cancel_rate"

    @tag("cancel")
    @task
    def cancel(self) -> None:
        """POST /tasks/, then POST /tasks/{task_id}/cancel; the response must show CANCELLED."""
        self.pace.take()
        stored = self.submit(self.body(datetime.now(UTC) + CANCEL_AHEAD))
        if stored is None:
            return
        with self.client.post(
            f"/tasks/{stored['id']}/cancel",
            headers=self.headers,
            name="/tasks/{task_id}/cancel",
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(_unexpected(200, response))
            elif (state := response.json()["state"]) != "CANCELLED":
                response.failure(f"cancelled, but the state is {state}")


class Reader(HoldfastUser):
    """Reads the newest tasks, single tasks and their events."""

    weight = 2
    rate_option = "read_rate"

    def on_start(self) -> None:
        super().on_start()
        self._ids: deque[str] = deque(maxlen=KNOWN_IDS_MAX)

    @tag("read")
    @task
    def read_next(self) -> None:
        """Read the next known task or its events; list tasks when none is left."""
        self.pace.take()
        if not self._ids:
            self._list()
            return
        task_id = self._ids.popleft()
        if len(self._ids) % 4:
            self.read(task_id)
        else:
            name = "/tasks/{task_id}/events"
            self.client.get(f"/tasks/{task_id}/events", headers=self.headers, name=name)

    def _list(self) -> None:
        with self.client.get(
            "/tasks/?limit=20", headers=self.headers, name="/tasks/", catch_response=True
        ) as response:
            if response.status_code == 200:
                self._ids.extend(each["id"] for each in response.json()["tasks"])
            else:
                response.failure(_unexpected(200, response))


class Shape(LoadTestShape):
    """The load shape selected by ``--shape``, scaled by -u, -r and -t."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users and the spawn rate per second; None ends the run."""
        assert self.runner is not None  # noqa: S101 - Locust set it before the first tick
        options: Any = self.runner.environment.parsed_options
        kind, users = options.shape, options.num_users or 1
        limit = float(options.run_time or 0) or None
        if limit is None and kind in {"ramp", "spike"}:
            limit = SHAPE_SECONDS
        passed = float(self.get_run_time())  # type: ignore[no-untyped-call]
        if limit is not None and passed > limit:
            return None
        rate = float(options.spawn_rate or 1)
        if kind == "steady":
            return users, rate
        share = _share(kind, passed, limit)
        # The shape determines the slope; -r only raises it.
        return max(1, round(users * share)), max(rate, users / 10)


def _share(kind: str, passed: float, limit: float | None) -> float:
    """Return the share of users running ``passed`` seconds after the start."""
    if kind == "soak":
        rise = min(300.0, (limit or math.inf) / 10)
        return min(1.0, (1 + math.floor(10 * passed / rise)) / 10)
    done = passed / (limit or 1.0)
    if kind == "ramp":
        return min(1.0, (1 + math.floor(10 * done)) / 10)
    return 1.0 if 0.4 <= done < 0.6 else 0.2


def _unexpected(wanted: int, response: Any) -> str:
    detail = response.text or response.error or ""  # status 0: no response
    return f"expected {wanted}, got {response.status_code}: {str(detail)[:300]}"


def _seconds_to_finish(ended: Mapping[str, Any]) -> float:
    """Return the seconds from stored to terminal, by the database's clock."""
    created = datetime.fromisoformat(ended["created_at"])
    return (datetime.fromisoformat(ended["finished_at"]) - created).total_seconds()


def _set_up(environment: Environment, **_: Any) -> None:
    options: Any = environment.parsed_options
    if options.shape == "none":
        environment.shape_class = None
    wanted, unwanted = set(options.tags or ()), set(options.exclude_tags or ())

    def is_selected(user: type[User]) -> bool:
        tags = set().union(*(getattr(each, "locust_tag_set", ()) for each in user.tasks))
        return (not wanted or bool(tags & wanted)) and not tags & unwanted

    # Locust cannot run a user without tasks. In a distributed run only the master chooses the
    # users, so it alone needs the tags.
    environment.user_classes = [user for user in environment.user_classes if is_selected(user)]


events.init_command_line_parser.add_listener(_add_options)  # type: ignore[no-untyped-call]
events.init.add_listener(_set_up)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    get_parser().print_help()
