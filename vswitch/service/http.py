"""The HTTP API's scaffolding: FastAPI on a unix socket, errors as problem details (RFC 9457).

The socket is made here, mode 0660, instead of by uvicorn, which would open it to everybody.
Endpoints are coroutines, so they run on the engine's loop, between two bursts, and may touch its
tables without locks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from . import log
from .settings import explain


class ApiError(Exception):
    """The API could not be opened; the text says what to do."""


def problem(status: int, title: str, detail: str) -> JSONResponse:
    """Build an RFC 9457 answer."""
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail},
        status_code=status,
        media_type="application/problem+json",
    )


def make_app(title: str, problems: dict[type[Exception], tuple[int, str]]) -> FastAPI:
    """Make an application in which the exceptions in `problems` become (status, title)."""
    app = FastAPI(title=title, docs_url=None, redoc_url=None)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return problem(422, "Invalid request", "; ".join(explain(error.errors(), "request")))

    app.add_exception_handler(RequestValidationError, invalid)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.get(path=request.url.path).error("unexpected error in the API", exc_info=error)
        return problem(500, "Internal error", "a bug of ours; the log has the details")

    app.add_exception_handler(Exception, unexpected)
    for kind, (status, name) in problems.items():

        async def handler(
            request: Request, error: Exception, status: int = status, name: str = name
        ) -> JSONResponse:
            return problem(status, name, str(error))

        app.add_exception_handler(kind, handler)
    return app


def serve_reload(app: FastAPI, reload: Callable[[], Awaitable[Any]]) -> None:
    """Add `POST /v1/reload` to an API; the plan that `reload` returns is the answer."""

    @app.post("/v1/reload")
    async def answer() -> dict[str, Any]:
        plan = await reload()
        return {
            "changes": [change._asdict() for change in plan.changes],
            "needs_restart": plan.needs_restart,
        }


def bind(path: Path) -> socket.socket:
    """Bind the API's unix socket. A socket file that nobody serves any more is replaced.

    Raises ApiError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise ApiError(f"{path} exists and is not a socket; change `api.socket`")
            if _is_served(path):
                raise ApiError(f"{path} is served by another process; stop it or change it here")
            path.unlink()
        before = os.umask(0o117)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(64)
    except OSError as error:
        sock.close()
        said = error.strerror or str(error)
        raise ApiError(f"cannot open the API socket {path}: {said}") from error
    except ApiError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # Somebody listens and is busy.
        return True


class ApiServer(uvicorn.Server):
    """uvicorn inside our own loop: the daemon handles signals, not the server."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=5,
            limit_concurrency=256,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
