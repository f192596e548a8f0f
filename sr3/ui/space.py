"""The app as it runs in a Space: `python -m sr3.ui.space`. On a laptop, `make app` is enough.

A Space is shown inside a frame of another site. Browsers keep such a frame's cookies only when they
are marked `Partitioned`; without the XSRF cookie every upload would be refused. XSRF protection
stays on: the cookie reaches the frame, and its token is checked as ever.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sr3.pins import go_offline

ROOT = Path(__file__).resolve().parent.parent.parent
COOKIE = b"_streamlit_xsrf="  # Streamlit's name for it
SECURE = b"; Secure"
PARTITIONED = b"; Partitioned"  # CHIPS: one jar of cookies for each embedding site
PORT = 7860  # what a Space expects


class PartitionedCookie:
    """ASGI middleware: a secure XSRF cookie becomes a partitioned one, all else passes unchanged.

    Browsers throw away a partitioned cookie that is not secure.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def partitioned(message: Message) -> None:
            if "headers" in message:
                message["headers"] = [_marked(*header) for header in message["headers"]]
            await send(message)

        await self.app(scope, receive, partitioned)


def _marked(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    ours = name.lower() == b"set-cookie" and value.startswith(COOKIE) and SECURE in value
    return name, value + PARTITIONED if ours and PARTITIONED not in value else value


app = st.App(ROOT / "app.py", middleware=[Middleware(PartitionedCookie)])


def settings() -> dict[str, Any]:
    """What differs from `.streamlit/config.toml` in a Space. SR3_TLS names a folder with `cert.pem`
    and `key.pem`, for HTTPS without a proxy before it; SR3_ADDRESS is the address to listen at.

    A cookie for another site's frame has to be secure, and over plain HTTP a browser throws such a
    one away: then every upload would be refused. Without HTTPS the cookie is an ordinary one.
    """
    tls = os.environ.get("SR3_TLS")
    secure = bool(tls or os.environ.get("SPACE_ID"))  # a Space names itself so, behind HTTPS
    files = {"server.sslCertFile": f"{tls}/cert.pem", "server.sslKeyFile": f"{tls}/key.pem"}
    return (files if tls else {}) | {
        "server.port": int(os.environ.get("PORT", PORT)),
        "server.address": os.environ.get("SR3_ADDRESS", "0.0.0.0"),
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.enableXsrfProtection": True,
        "server.xsrfCookieSameSite": "none" if secure else "lax",
    }


if __name__ == "__main__":
    if "--offline" in sys.argv:
        go_offline()
    os.chdir(ROOT)  # where .streamlit/config.toml is looked for
    app.run(config=settings())
