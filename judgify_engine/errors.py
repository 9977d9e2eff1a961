"""What can go wrong, sorted by who can act on it.

`Rejected`: the sender must change the request (4xx). `Overloaded`: come back later (503, `Retry-After`).
`Unavailable`: something we need is away; we retry, the sender may too (503). `Corrupt`: stop, page someone.
Each `code` is stable and unique; `ERRORS.md` beside this file lists them all (a test compares).
"""

from typing import Any, ClassVar


class JudgifyError(Exception):
    """Base of all: carries what an answer needs. `detail` is for people, `extra` for programs."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra


class SettingsError(JudgifyError):
    """A setting is wrong; the process does not start (exit code 2)."""

    code, title = "settings_invalid", "Wrong settings"


class StartupError(JudgifyError):
    """The process cannot start on this machine (exit code 1); the message says what to do."""

    code, title = "startup_failed", "Cannot start"


class Corrupt(JudgifyError):
    """Bytes that must not be: stop rather than count wrongly."""

    code, title = "corrupt_stream", "Corrupt replication stream"


class Rejected(JudgifyError):
    """The sender must change the request."""

    code, status, title = "rejected", 400, "Request refused"


class MalformedJson(Rejected):
    code, title = "malformed_json", "The body is not valid JSON"


class InvalidField(Rejected):
    """`kind`: how it is wrong, by the names of core/quality; not a part of the answer."""

    code, status, title = "invalid_field", 422, "A field is wrong"

    def __init__(self, detail: str, *, kind: str = "invalid_value", **extra: Any) -> None:
        super().__init__(detail, **extra)
        self.kind = kind


class UnstorableText(Rejected):
    code, status, title = "unstorable_text", 422, "PostgreSQL cannot store this text"


class NumberOutOfRange(Rejected):
    code, status, title = "number_out_of_range", 422, "A number is out of range"


class NestedTooDeep(Rejected):
    code, status, title = "nested_too_deep", 422, "The JSON is nested too deep"


class InvalidWorkflow(Rejected):
    code, status, title = "invalid_workflow", 422, "The workflow is wrong"


class InvalidAlertRule(Rejected):
    code, status, title = "invalid_alert_rule", 422, "The alert rule is wrong"


class RowRefused(Rejected):
    code, status, title = "row_refused", 422, "PostgreSQL refused this judgment"


class IdempotencyMismatch(Rejected):
    code, status, title = "idempotency_mismatch", 422, "The key was used with another request"


class Unauthorized(Rejected):
    code, status, title = "unauthorized", 401, "A valid token is needed"


class Forbidden(Rejected):
    code, status, title = "forbidden", 403, "The token lacks the scope"


class NotFound(Rejected):
    code, status, title = "not_found", 404, "Not found"


class WorkflowNotFound(Rejected):
    code, status, title = "workflow_not_found", 404, "No such workflow"


class WorkflowBroken(Rejected):
    code, status, title = "workflow_broken", 409, "The stored workflow cannot be used"


class NotReplayable(Rejected):
    code, status, title = "not_replayable", 409, "Nothing is kept that could be replayed"


class AlreadyReplayed(Rejected):
    code, status, title = "already_replayed", 409, "This was replayed already"


class VersionMismatch(Rejected):
    """Somebody else stored another version meanwhile; `version` is the current one."""

    code, status, title = "version_mismatch", 412, "Another version is current"


class MethodNotAllowed(Rejected):
    code, status, title = "method_not_allowed", 405, "Method not allowed"


class BodyTooLarge(Rejected):
    code, status, title = "body_too_large", 413, "The body is too large"


class UnsupportedEncoding(Rejected):
    code, status, title = "unsupported_encoding", 415, "The body must not be compressed"


class RetryLater(JudgifyError):
    """Base of what a repeat can cure; the answer carries `Retry-After`."""

    code, status, title = "retry_later", 503, "Try again"

    def __init__(self, detail: str, *, retry_after_s: float = 1.0, **extra: Any) -> None:
        super().__init__(detail, **extra)
        self.retry_after_s = retry_after_s


class Overloaded(RetryLater):
    code, title = "overloaded", "Too much at once"


class QuotaExceeded(RetryLater):
    """`headers`: what the answer says of the quota. `hold_s`: when it is sent."""

    code, status, title = "quota_exceeded", 429, "The tenant's quota is used up"

    def __init__(
        self,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        hold_s: float = 0.0,
        retry_after_s: float = 1.0,
        **extra: Any,
    ) -> None:
        super().__init__(detail, retry_after_s=retry_after_s, **extra)
        self.headers, self.hold_s = headers or {}, hold_s


class QueueFull(Overloaded):
    code, title = "queue_full", "The queue is full"


class Draining(RetryLater):
    code, title = "draining", "The server is stopping"


class Unavailable(RetryLater):
    code, title = "unavailable", "Something needed is away"


class StreamsUnavailable(Unavailable):
    code, title = "streams_unavailable", "Redis is away"


class StreamCut(Unavailable):
    """A stream ends before what it had got: it was emptied, or a server came back without its last entries."""

    code, title = "stream_cut", "A stream lacks entries"

    def __init__(self, detail: str, *, stream: str = "", **extra: Any) -> None:
        super().__init__(detail, **extra)
        self.stream = stream


class ScalingFailed(Unavailable):
    """The number of processes could not be read or set; it is tried again after the cool-down."""

    code, title = "scaling_failed", "The number of processes cannot be set"


class DatabaseUnavailable(Unavailable):
    code, title = "database_unavailable", "PostgreSQL is away"


class CommitUnknown(Unavailable):
    """The connection broke in COMMIT and the database stayed away: the judgment may or may not be stored."""

    code, title = "commit_unknown", "The outcome of the commit is not known yet"
