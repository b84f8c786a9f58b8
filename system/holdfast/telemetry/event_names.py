"""Constants that identify log lines and errors to programs; their texts are for people only.

Every line carries an ``EventName`` as ``event_name``; a line with a field ``error`` also carries an
``ErrorCode`` as ``error_code``. Tests, chaos runs and alerts match these two fields, so texts may
be reworded freely. Values are an interface: renaming one breaks searches in existing logs.
"""

from __future__ import annotations

from enum import StrEnum


class EventName(StrEnum):
    """What a log line reports."""

    # API
    API_STARTED = "api_started"
    API_STOPPED = "api_stopped"
    REQUEST_SERVED = "request_served"
    REQUEST_CRASHED = "request_crashed"
    REQUEST_REFUSED = "request_refused"

    # Transitions committed by the API
    TASK_SUBMITTED = "task_submitted"
    SUBMIT_ALREADY_COMMITTED = "submit_already_committed"
    TASK_CANCELLED = "task_cancelled"
    CANCEL_REQUESTED = "cancel_requested"
    TASK_RETRIED = "task_retried"

    # Scheduler
    SCHEDULER_STARTED = "scheduler_started"
    SCHEDULER_STOPPED = "scheduler_stopped"
    TASK_DISPATCHED = "task_dispatched"
    HINT_REPUBLISHED = "hint_republished"
    HINT_LOSS_DETECTED = "hint_loss_detected"
    WORKER_MARKED_DEAD = "worker_marked_dead"
    ATTEMPT_RECLAIMED = "attempt_reclaimed"
    DEAD_CONSUMER_DRAINED = "dead_consumer_drained"

    # Worker: the process
    WORKER_STARTED = "worker_started"
    WORKER_STOPPED = "worker_stopped"
    WORKER_NOT_RETIRED = "worker_not_retired"
    REGISTRATION_FAILED = "registration_failed"
    INCARNATION_DEAD = "incarnation_dead"
    HANDLERS_ENDED = "handlers_ended"
    ATTEMPTS_RELEASED = "attempts_released"
    SLOT_DEAD = "slot_dead"
    SLOTS_USED_UP = "slots_used_up"

    # Worker: from hint to attempt
    CLAIM_RESENT = "claim_resent"
    CLAIM_ALREADY_COMMITTED = "claim_already_committed"
    HINT_NOT_REQUEUED = "hint_not_requeued"
    QUARANTINED_TASK_WAITING = "quarantined_task_waiting"
    QUARANTINED_TASK_SKIPPED = "quarantined_task_skipped"
    HANDLER_MISSING = "handler_missing"
    UNKNOWN_ATTEMPT_RELEASED = "unknown_attempt_released"

    # Worker: attempts and their ends
    TASK_CLAIMED = "task_claimed"
    ATTEMPT_ENDED = "attempt_ended"
    ATTEMPT_LOST = "attempt_lost"
    ATTEMPT_CRASHED = "attempt_crashed"
    STALE_WRITE_REFUSED = "stale_write_refused"
    FINISH_RESENT = "finish_resent"
    FINISH_ALREADY_COMMITTED = "finish_already_committed"
    FINISH_FAILED = "finish_failed"
    RESULT_UNSTORABLE = "result_unstorable"

    # Every role
    STARTUP_WAITING = "startup_waiting"
    HEALTH_STARTED = "health_started"
    HTTP_SERVER_FAILED = "http_server_failed"
    LOOP_FAILED = "loop_failed"
    COLLECTOR_FAILED = "collector_failed"
    COLLECTOR_REFUSED = "collector_refused"
    COLLECTOR_RECOVERED = "collector_recovered"
    SPANS_UNENCODABLE = "spans_unencodable"


class ErrorCode(StrEnum):
    """What went wrong; the classes in ``holdfast.errors`` say what the caller may do next."""

    UNAVAILABLE = "unavailable"
    REDIS_TIMEOUT = "redis_timeout"
    OUTCOME_UNKNOWN = "outcome_unknown"
    UNSTORABLE = "unstorable"
    TASK_LOST = "task_lost"
    MISCONFIGURED = "misconfigured"
    COLLECTOR_UNAVAILABLE = "collector_unavailable"
    COLLECTOR_REFUSED = "collector_refused"
    OTHER = "other"  # a library's exception, or an error of ours without a code
