"""Serve the page of the command demo."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speechbrain_mamba.cli.page_layout import import_gradio


def serve_page(page: Any, host: str, port: int, folder: Path, ready: Callable[[], object]) -> None:
    """Serve a page until Ctrl-C.

    Gradio's ``launch`` is not used: it asks its own server whether it answers within 3 seconds, and fails on a busy
    machine and behind a proxy.

    Arguments
    ---------
    page : gradio.Blocks
        What to serve.
    host : str
        The address whose connections are taken; ``127.0.0.1`` for those of this machine only.
    port : int
        Of it.
    folder : Path
        The page may show the files in it.
    ready : callable
        Called once the port is taken; who asks then is answered.

    Raises
    ------
    OSError
        When the port is taken.
    """
    import fastapi
    import uvicorn

    served = import_gradio().mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page, "/", host, port, ["gradio"], run_history=False,
        allowed_paths=[str(folder)], ssr_mode=False,
    )  # fmt: skip
    with socket.socket() as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
        except OSError as error:
            raise OSError(f"Port {port} of {host} cannot be taken ({error.strerror}): give another --port.") from error
        door.listen(128)
        ready()
        # a browser that still shows the page keeps a connection, which is not waited for
        server = uvicorn.Server(uvicorn.Config(served, log_level="error", timeout_graceful_shutdown=1))
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[door])
