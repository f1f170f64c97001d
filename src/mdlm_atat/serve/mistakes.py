"""What a request is refused with."""

from __future__ import annotations

from typing import Any

from mdlm_atat.errors import UserError

TYPES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    429: "queue_full",
    500: "internal_error",
    503: "shutting_down",
}
"""HTTP status -> what it is called in the body."""


class RequestError(UserError):
    """A request that is not answered. `field`: the field of its body that is wrong, where it is one."""

    def __init__(self, message: str, *, field: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.field, self.status = field, status

    @classmethod
    def of(cls, error: BaseException, *, field: str | None = None) -> RequestError:
        """What went wrong, as a client hears of it: nothing of what is inside for an error of ours. `field`: the one
        that it is about, where it does not say so."""
        if isinstance(error, RequestError):
            return error if error.field or not field else cls(str(error), field=field, status=error.status)
        if isinstance(error, UserError):
            return cls(str(error), field=field)
        return cls("something went wrong in the server; its terminal says what", status=500)

    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": TYPES[self.status], "field": self.field}}
