"""The client side of the API, for the CLI and the tools: httpx over the daemon's unix socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx


class ClientError(Exception):
    """The daemon could not be asked, or refused; the text says why."""


class Client:
    """Talks to one daemon."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._path = path
        self._http = httpx.Client(
            # A unix socket needs no TLS, and loading certificates takes tens of milliseconds.
            transport=httpx.HTTPTransport(uds=str(path), verify=False),
            base_url="http://daemon",
            timeout=timeout,
        )

    def get(self, url: str, **query: Any) -> Any:
        return self._ask("GET", url, params=query)

    def post(self, url: str, body: Any = None) -> Any:
        return self._ask("POST", url, json=body)

    def delete(self, url: str, **query: Any) -> Any:
        return self._ask("DELETE", url, params=query)

    def text(self, url: str) -> str:
        """Return an answer that is not JSON, such as the metrics."""
        return self._send("GET", url).text

    def _ask(self, method: str, url: str, **more: Any) -> Any:
        return self._send(method, url, **more).json()

    def _send(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, url, **more)
        except httpx.HTTPError as error:
            raise ClientError(
                f"no answer from the daemon at {self._path} ({error}): is it running,"
                " and is this its socket? `--socket` names another"
            ) from error
        if answer.is_success:
            return answer
        try:
            said = answer.json()["detail"]
        except (ValueError, KeyError, TypeError):
            said = f"{answer.status_code} {answer.text[:200]}"
        raise ClientError(str(said))

    def close(self) -> None:
        self._http.close()
