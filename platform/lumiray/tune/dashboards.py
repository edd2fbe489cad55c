"""A study in the browser while it runs: TensorBoard with HParams, optuna-dashboard, and where Ray's own is.

Both servers listen on this machine alone, and read nothing but the study's records.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from lumiray.errors import RunFailure, UserError
from lumiray.tune.hparams import Sessions
from lumiray.tune.study import Study, quiet
from lumiray.tune.summary import named_study, study_name

_log = logging.getLogger(__name__)
HOST = "127.0.0.1"
PORT = 6006  # of TensorBoard; optuna-dashboard has the one behind it
LOOK_S = 5.0  # between two looks at the records
NO_RAY = "no cluster runs here; a job on this machine starts one while it runs, RAY_ADDRESS names another"


def show_dashboards(output: str, storage: str | None = None, port: int = PORT) -> None:
    """Serve until Ctrl-C.

    Args:
        output: of a search, local or s3://.
        storage: its database, if it had one of its own.
        port: of TensorBoard; the next one is that of optuna-dashboard.

    Raises:
        UserError: there is no study, a port is taken, or optuna-dashboard is not installed.
    """
    with dashboards(named_study(output, storage), port) as (addresses, look):
        print(f"study {study_name(output)}:")
        for name, address in addresses.items():
            print(f"  {name:18s}{address}")
        print(f"  {'Ray':18s}{ray_dashboard() or NO_RAY}")
        print(f"Ctrl-C ends them. `lumiray study show {output}` writes a report that needs no server.", flush=True)
        try:
            while True:
                time.sleep(LOOK_S)
                look()
        except KeyboardInterrupt:
            print()


@contextmanager
def dashboards(study: Study, port: int = PORT) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """Both servers while inside: their addresses by name, and what brings them the newest records."""
    with tempfile.TemporaryDirectory(prefix="lumiray-hparams-") as folder:
        sessions = Sessions(Path(folder), study.metrics)
        sessions.update(study.trials())
        addresses = {"TensorBoard": f"http://{HOST}:{port}/#hparams", "optuna-dashboard": f"http://{HOST}:{port + 1}/"}

        def look() -> None:
            study.place.renew()
            sessions.update(study.trials())

        with _optuna(study, port + 1), _tensorboard(folder, port):
            yield addresses, look


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not for the terminal."""
        _log.debug(format, *args)


class _Threads(ThreadingMixIn, WSGIServer):
    """A page asks for several things at once."""

    daemon_threads = True


@contextmanager
def _optuna(study: Study, port: int) -> Iterator[None]:
    """A thread of this process: the address of a database, which may hold a password, is on no command line."""
    try:
        import optuna_dashboard
    except ImportError:
        raise UserError(
            "optuna-dashboard is not installed: pip install 'lumiray[dashboards]'. "
            "`lumiray study show` writes a report without it."
        ) from None
    with quiet():
        page = optuna_dashboard.wsgi(study.place.url)
    try:
        server = make_server(HOST, port, page, _Threads, _Quiet)
    except OSError as error:
        raise _taken(port, error.strerror) from None
    with server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield
        server.shutdown()
        serving.join()


@contextmanager
def _tensorboard(folder: str, port: int) -> Iterator[None]:
    """A process of its own: in this one it could not be ended."""
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((HOST, port))
        except OSError as error:
            raise _taken(port, error.strerror) from None
    options = ("--logdir", folder, "--host", HOST, "--port", str(port), "--reload_interval", str(int(LOOK_S)))
    command = [sys.executable, "-m", "tensorboard.main", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(process, port)
        yield
    finally:
        process.terminate()
        process.wait()


def _await(process: subprocess.Popen[bytes], port: int) -> None:
    """Return when a server listens.

    Raises:
        RunFailure: it ended instead.
    """
    while process.poll() is None:
        try:
            socket.create_connection((HOST, port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RunFailure(
        f"TensorBoard ended with exit code {process.returncode}; try `{sys.executable} -m tensorboard.main`."
    )


def _taken(port: int, why: str | None) -> UserError:
    return UserError(f"Port {port} cannot be used ({why}): choose another pair with --port.")


def ray_dashboard() -> str | None:
    """The address of the dashboard of the Ray cluster that is named, or runs on this machine; None without one."""
    from ray.dashboard.utils import get_address_for_submission_client

    try:
        return str(get_address_for_submission_client(None))
    except (ConnectionError, RuntimeError, ValueError):
        return None
