"""The Space: the steps of the Dockerfile without Docker, and the app inside another site's page."""

from __future__ import annotations

import asyncio
import http.server
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from sr3.ui.space import PartitionedCookie
from tests.browsing import (
    SETTLED,
    Watch,
    free_port,
    launch,
    new_context,
    photograph,
    serving,
)

ROOT = Path(__file__).resolve().parent.parent
USER = 1000


def steps() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in text.splitlines() if line.strip()]


# ------------------------------------------------------------------------------------- cookies
def headers_through(*cookies: bytes) -> list[bytes]:
    async def app(scope, receive, send) -> None:
        headers = [(b"Set-Cookie", cookie) for cookie in cookies]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(PartitionedCookie(app)({"type": "http"}, None, send))
    return [value for _, value in sent[0]["headers"]]


def test_only_the_xsrf_cookie_is_partitioned_and_once():
    ours, other = b"_streamlit_xsrf=2|a; Secure", b"session=1; _streamlit_xsrf=x"
    assert headers_through(ours, other) == [ours + b"; Partitioned", other]
    assert headers_through(ours + b"; Partitioned") == [ours + b"; Partitioned"]


def test_the_readme_begins_with_what_a_space_needs():
    from huggingface_hub import SpaceCard

    data = SpaceCard((ROOT / "README.md").read_text()).data.to_dict()
    ports = [argument for name, argument in steps() if name == "EXPOSE"]
    assert data["sdk"] == "docker" and [str(data["app_port"])] == ports
    assert {"title", "license", "models", "suggested_hardware", "short_description"} <= set(data)
    assert len(data["short_description"]) <= 60  # the Hub's limit


def test_the_build_context_has_all_that_is_copied():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name, arguments in steps():
        if name == "COPY":
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists() and source not in ignored, source


# ------------------------------------------------------------------------------- the Dockerfile
class Container:
    """What `docker build` and `docker run` would do, under a fresh prefix."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.environment = {"PATH": os.defpath, "HOME": str(prefix / "home/user")}
        self.folder = prefix
        self.command: list[str] = []
        self.health = ""
        self.user: int | None = None

    def inside(self, text: str) -> str:
        """Absolute paths of the image, under the prefix."""
        return re.sub(r"(?<![\w.])/(opt/sr3|app|home/user)\b", rf"{self.prefix}/\1", text)

    def build(self) -> None:
        for name, arguments in steps():
            match name:
                case "FROM" | "EXPOSE":
                    continue
                case "ARG":
                    key, value = arguments.split("=", 1)
                    self.environment[key] = value.strip('"')
                case "ENV":
                    for pair in shlex.split(arguments):
                        key, value = pair.split("=", 1)
                        value = value.replace("$PATH", self.environment["PATH"])
                        self.environment[key] = self.inside(value)
                case "WORKDIR":
                    self.folder = Path(self.inside(arguments))
                    self.folder.mkdir(parents=True)
                case "COPY":
                    self.copy(*arguments.split())
                case "RUN" if arguments.startswith("useradd"):
                    assert f"--uid {USER}" in arguments
                    home = self.prefix / "home/user"
                    home.mkdir(parents=True)
                    if os.getuid() == 0:
                        os.chown(home, USER, USER)
                case "RUN":
                    self.run(arguments)
                case "USER":
                    self.user = USER
                case "HEALTHCHECK":
                    self.health = arguments.split(" CMD ", 1)[1]
                case "CMD":
                    self.command = re.findall(r'"([^"]+)"', arguments)
                case _:
                    pytest.fail(f"the Dockerfile has a step that this test cannot run: {name}")
        for path in [self.folder, *self.folder.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)

    def copy(self, *arguments: str) -> None:
        *sources, target = arguments
        for source in sources:
            place = self.folder / target / (source if target == "./" else "")
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, place, dirs_exist_ok=True, ignore=skip)
            else:
                shutil.copyfile(ROOT / source, place)

    def run(self, line: str) -> None:
        """A RUN line itself. Packages are those of this machine: pip finds each pin satisfied, and
        asks no index, or fails."""
        if "venv" in line:
            python = interpreter(self.prefix)
            if python.is_relative_to(self.prefix):  # a copy must find its own library
                self.environment["LD_LIBRARY_PATH"] = str(self.prefix / "usr/lib")
            line = line.replace("python3", str(python), 1)
        done = subprocess.run(
            self.inside(line), shell=True, cwd=self.folder, capture_output=True, text=True,
            env=self.environment | {"PIP_NO_INDEX": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        if "venv" in line:
            packages = next((self.prefix / "opt/sr3/lib").glob("python*/site-packages"))
            for bundled in packages.glob("setuptools*"):  # older than torch asks for
                shutil.rmtree(bundled)
            places = [Path(path) for path in sys.path if path.endswith("site-packages")]
            found = [str(readable(path, self.prefix / path.parent.name)) for path in places]
            (packages / "machine.pth").write_text("\n".join(found) + "\n")

    def popen(self, command: list[str] | str, **settings) -> subprocess.Popen:
        if os.getuid() == 0:
            settings |= {"user": self.user, "group": self.user, "extra_groups": []}
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, shell=isinstance(command, str),
            **settings,
        )  # fmt: skip


def readable(path: Path, copy: Path, *leave: str) -> Path:
    """A folder that another user can read: itself, or a copy where its parents are closed."""
    if os.getuid() or all(each.stat().st_mode & 0o005 == 0o005 for each in path.resolve().parents):
        return path

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    skip = shutil.ignore_patterns(
        "__pycache__", "test", "share", "include", "idlelib", "config-*", *leave
    )
    shutil.copytree(path, copy, copy_function=link, ignore=skip, symlinks=True)
    return copy


def interpreter(prefix: Path) -> Path:
    """The Python that stands for the image's."""
    base = readable(Path(sys.base_prefix), prefix / "usr", "site-packages")
    return base / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    prefix = Path(tempfile.mkdtemp(prefix="sr3-image-"))
    prefix.chmod(0o755)  # pytest's own folders are closed to other users
    made = Container(prefix)
    try:
        made.build()
        yield made
    finally:
        for path in [made.folder, *made.folder.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o700)
        shutil.rmtree(prefix)


@pytest.mark.browser
@pytest.mark.slow
def test_the_dockerfile_serves_a_face(container, chromium, tmp_path):
    container.environment["PORT"] = str(free_port())
    address = f"http://127.0.0.1:{container.environment['PORT']}"
    log = tmp_path / "log"
    with log.open("w") as out:
        server = container.popen(container.command, stdout=out, stderr=subprocess.STDOUT)
        with serving(server, address, log) as seconds:
            assert seconds < 60  # a few, on a machine that does nothing else
            assert container.popen(container.health).wait(30) == 0
            probe = container.popen(["touch", str(container.folder / "sr3" / "x")])
            assert probe.wait(10) != 0 or os.getuid() != 0
            context = new_context(chromium)
            page = context.new_page()
            watch = Watch(page)
            page.goto(address)
            start_and_finish(page)
            context.close()
            assert watch.faults == []
    assert not list(container.folder.rglob("__pycache__"))
    assert not (container.prefix / "home/user/.cache/huggingface").exists()  # nothing downloaded


def start_and_finish(page) -> None:
    """Until a face is resolved; the first one may start by itself."""
    done = page.get_by_text("Done: 16 × 16").first
    button = page.get_by_role("button", name="Super-resolve")
    expect(done.or_(button).first).to_be_visible(timeout=90_000)
    if not done.is_visible() and button.is_enabled():
        button.click()
    expect(done).to_be_visible(timeout=90_000)


# --------------------------------------------------------------------------- inside another site
EMBED = (
    '<title>Another site</title><iframe src="{}" allow="camera" width=1300 height=1600></iframe>'
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=loopback", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


@contextmanager
def embedding(certificate: Path, inner: str) -> Iterator[int]:
    """A page of another site that shows the app in a frame."""

    class Page(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_) -> None: ...

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(EMBED.format(inner).encode())

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("entry", ["space", "plain"])
def test_uploads_and_the_camera_work_inside_another_sites_frame(
    entry, certificate, chromium, tmp_path
):
    """`plain` is the control: the same cookie settings without the middleware are refused."""
    port = free_port()
    command = {
        "space": ["-m", "sr3.ui.space"],
        "plain": ["-m", "streamlit", "run", "app.py", "--server.headless=true",
                  f"--server.port={port}", "--server.xsrfCookieSameSite=none"],
    }[entry]  # fmt: skip
    environment = os.environ | {
        "SR3_TLS": str(certificate),
        "PORT": str(port), "SR3_ADDRESS": "127.0.0.1", "HF_HUB_OFFLINE": "1",
        "STREAMLIT_SERVER_SSL_CERT_FILE": str(certificate / "cert.pem"),
        "STREAMLIT_SERVER_SSL_KEY_FILE": str(certificate / "key.pem"),
    }  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        inner = f"https://space.test:{port}"
        with (
            serving(server, f"https://127.0.0.1:{port}", log),
            embedding(certificate, inner) as outer,
        ):
            browser = launch(
                chromium.browser_type, "--test-third-party-cookie-phaseout",
                "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                "--host-resolver-rules=MAP space.test 127.0.0.1,MAP site.example 127.0.0.1",
            )  # fmt: skip
            try:
                drive(browser, f"https://site.example:{outer}", allowed=entry == "space")
            finally:
                browser.close()


def drive(browser, address: str, allowed: bool) -> None:
    context = browser.new_context(
        ignore_https_errors=True, viewport={"width": 1400, "height": 1700}
    )
    page = context.new_page()
    answers: list[int] = []
    page.on(
        "response",
        lambda each: (
            answers.append(each.status)
            if "upload_file" in each.url and each.request.method == "PUT"
            else None
        ),
    )
    page.goto(address)
    app = page.frame_locator("iframe")
    expect(app.get_by_role("tab", name="Upload")).to_be_visible(timeout=90_000)
    app.get_by_role("tab", name="Upload").click()
    app.locator("input[type=file]").set_input_files(photograph())
    deadline = time.monotonic() + 60
    while not answers and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    if not allowed:
        assert answers[0] == 403
        return
    assert answers == [204]
    app.locator(SETTLED).wait_for(timeout=60_000)
    app.get_by_role("tab", name="Camera").click()
    shoot = app.get_by_role("button", name="Take Photo")
    expect(shoot).to_be_enabled(timeout=60_000)
    shoot.click()
    while len(answers) < 2 and time.monotonic() < deadline + 60:
        page.wait_for_timeout(100)
    assert answers == [204, 204]
