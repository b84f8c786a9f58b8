"""Coverage of faults: counted from history and statements, summed, formatted as tables."""

from __future__ import annotations

from specimen import Specimen

from chaos.history.history import History
from chaos.history.records import Fault
from chaos.simulation.postgres import ExecutedStatement
from chaos.simulation.suite.coverage import Coverage


def made(at: float, client: str, name: str) -> ExecutedStatement:
    return ExecutedStatement(
        at=at,
        client=client,
        name=name,
        outcome="SELECT 1",
        failed=False,
        parked=False,
        held=False,
        open=False,
    )


def injected(fault: str, target: str, at: float) -> Fault:
    return Fault(type="start", fault_id=f"{fault}#1", fault=fault, targets=(target,), at=at)


def covered(*faults: Fault, statements: list[ExecutedStatement]) -> Coverage:
    run = Specimen()
    run.submit("a").dispatch().claim().succeed()
    return Coverage.of(History([*run.all_records(), *faults]), statements, zero=10.0)


STATEMENTS = [
    made(10.5, "worker-1", "claim"),
    made(11.5, "worker-1", "finish"),
    made(10.8, "scheduler-1", "dispatch"),
    made(10.9, "observer", "counts"),
]


def test_fault_is_counted_between_two_statements_of_its_process() -> None:
    found = covered(injected("kill", "worker-1", 1.0), statements=STATEMENTS)
    assert found.injections == {"kill": 1}
    assert found.after == {"kill claim": 1}
    assert found.before == {"kill finish": 1}
    assert found.statements == {"claim": 1, "finish": 1, "dispatch": 1}


def test_edge_fault_affects_its_client_and_server_fault_all() -> None:
    edge = covered(injected("down", "scheduler-1->redis", 1.0), statements=STATEMENTS)
    assert edge.after == {"down dispatch": 1}
    assert not edge.before
    server = covered(injected("pause", "postgres", 1.0), statements=STATEMENTS)
    assert server.after == {"pause claim": 1, "pause dispatch": 1}


def test_states_are_taken_at_the_injection() -> None:
    run = Specimen()
    run.submit("a").dispatch().claim().succeed()
    history = History(run.all_records())
    (events,) = history.events.values()
    seconds = {event.to_state: history.seconds(event.at) for event in events}
    running = (seconds["RUNNING"] + seconds["SUCCEEDED"]) / 2
    found = covered(
        injected("kill", "worker-1", running), injected("flush", "redis", 99.0), statements=[]
    )
    assert found.states == {"kill RUNNING": 1, "flush SUCCEEDED": 1}


def test_coverage_adds_up_and_survives_json() -> None:
    one = covered(injected("kill", "worker-1", 1.0), statements=STATEMENTS)
    one.sometimes.update(["lease_lost"])
    both = Coverage.parse(one.document)
    both.add(one)
    assert both.injections == {"kill": 2}
    assert both.after == {"kill claim": 2}
    assert both.sometimes == {"lease_lost": 2}


def test_unreached_cells_are_marked() -> None:
    lines = covered(injected("kill", "worker-1", 1.0), statements=STATEMENTS).tables().splitlines()
    (states,) = [line for line in lines if line.startswith("kill")]
    assert "." in states.split()
    claim = next(line for line in lines if line.startswith("claim"))
    dispatch = next(line for line in lines if line.startswith("dispatch"))
    assert claim.split()[-1] == "1/."
    assert dispatch.split()[-1] == "./."


def test_run_without_faults_has_an_empty_table() -> None:
    table = covered(statements=STATEMENTS).tables()
    assert "injected" in table
    assert "kill" not in table
