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
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect

from sr3.ui import deck
from sr3.ui.space import PartitionedCookie, settings
from tests.browsing import (
    SETTLED,
    Watch,
    free_port,
    launch,
    new_context,
    photograph,
    serving,
)
from tests.loopback_hub import TOKEN
from tests.test_hub import server as space_hub  # noqa: F401

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
    plain = b"_streamlit_xsrf=2|a; Path=/; SameSite=Lax"
    assert headers_through(plain) == [plain]  # a browser keeps no partitioned one without Secure


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "lax"), ({"SPACE_ID": "lab/space"}, "none"), ({"SR3_TLS": "/certificate"}, "none")],
)
def test_the_cookie_is_for_frames_only_where_it_can_be_secure(monkeypatch, given, expected):
    for name in ("SPACE_ID", "SR3_TLS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert settings()["server.xsrfCookieSameSite"] == expected
    assert settings()["server.enableXsrfProtection"] is True


def cookie(address: str) -> set[str]:
    """The attributes of the XSRF cookie that a server sets."""
    context = ssl._create_unverified_context()
    with urllib.request.urlopen(f"{address}/_stcore/health", context=context) as answer:
        (found,) = [each for each in answer.headers.get_all("Set-Cookie") if "xsrf" in each]
    return {part.strip() for part in found.split(";")[1:]}


@pytest.mark.parametrize(
    ("address", "expected"),
    [("http://localhost:8501/", True), ("http://127.0.0.1:8501/", True), ("http://[::1]/", True),
     ("http://0.0.0.0:7860/", True), ("http://192.168.1.20:8501/", False),
     ("https://lab-space.hf.space/", False), ("lab.example.org", False)],
)  # fmt: skip
def test_the_poster_knows_an_address_that_no_phone_reaches(address, expected):
    assert deck.alone(address) is expected


def test_the_readme_begins_with_what_a_space_needs():
    from huggingface_hub import SpaceCard

    data = SpaceCard((ROOT / "README.md").read_text()).data.to_dict()
    ports = [argument for name, argument in steps() if name == "EXPOSE"]
    assert data["sdk"] == "docker" and [str(data["app_port"])] == ports
    assert {"title", "license", "models", "suggested_hardware", "short_description"} <= set(data)
    assert len(data["short_description"]) <= 60  # the Hub's limit
    assert data["license"] == "other" and "non-commercial" in data["license_name"]  # the weights


def test_the_build_context_has_all_that_is_copied():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name, arguments in steps():
        if name == "COPY":
            for source in arguments.split()[:-1]:
                assert (ROOT / source).exists() and source not in ignored, source


def wheel(folder: Path, name: str, version: str) -> None:
    """A package index with one version of one package, which is empty."""
    folder.joinpath(name).mkdir(parents=True)
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(folder / name / file, "w") as out:
        about = f"{name}-{version}.dist-info"
        out.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        out.writestr(f"{about}/WHEEL", tag)
        out.writestr(f"{about}/RECORD", "")
    link = f'<a href="{urllib.parse.quote(file)}">{file}</a>'
    (folder / name / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")


@pytest.mark.parametrize("chosen", [True, False])
def test_the_build_argument_chooses_another_build_of_torch(tmp_path, chosen):
    (pin,) = re.findall(r"(?m)^torch==(\S+)", (ROOT / "requirements.txt").read_text())
    wheel(tmp_path / "usual", "torch", pin)
    wheel(tmp_path / "other", "torch", f"{pin}+cpu")
    (tmp_path / "requirements.txt").write_text(f"torch=={pin}\n")
    (line,) = [each for name, each in steps() if name == "RUN" and "pip install" in each]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
        "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": (tmp_path / "usual").as_uri(),
        "PIP_TARGET": str(tmp_path / "out"),
        "TORCH_INDEX": (tmp_path / "other").as_uri() if chosen else "",
    }  # fmt: skip
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (tmp_path / "out").glob("torch-*.dist-info")
    assert found.name == f"torch-{pin}{'+cpu' if chosen else ''}.dist-info"


# --------------------------------------------------------------------------------- to the Hub
@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_what_is_committed_goes_to_the_space_and_nothing_else(space_hub, tmp_path):  # noqa: F811
    """`make space` itself, with the client's own program, in a small repository."""
    home = tmp_path / "repository"
    git = ["git", "-c", "user.name=n", "-c", "user.email=e", "-c", "safe.directory=*"]
    for name in ("README.md", "Dockerfile", "checkpoints/lite/model.safetensors", "docs/a.png"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(name.encode())
    shutil.copy(ROOT / "Makefile", home)
    (home / "requirements.txt").write_text("")
    subprocess.run([*git, "init", "-q", "."], cwd=home, check=True)
    subprocess.run([*git, "add", "."], cwd=home, check=True)
    subprocess.run([*git, "commit", "-qm", "x"], cwd=home, check=True)
    listed = subprocess.run(
        [*git, "ls-files"], cwd=home, check=True, capture_output=True, text=True
    )
    tracked = set(listed.stdout.split())
    (home / ".streamlit").mkdir()
    (home / ".streamlit/secrets.toml").write_text("secret")
    (home / ".venv/bin").mkdir(parents=True)
    (home / ".venv/bin/hf").symlink_to(Path(sys.executable).with_name("hf"))
    (home / ".venv/.runtime").touch()
    space_hub.commit("lab/space", {".gitattributes": b"x", "gone.py": b"old"}, "space")
    environment = os.environ | {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        ["make", "space", "SPACE=lab/space"], cwd=home, env=environment, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(space_hub.files("lab/space", "space")) == tracked | {".gitattributes"}
    refused = subprocess.run(["make", "space"], cwd=home, capture_output=True, text=True)
    assert refused.returncode and "SPACE=org/name" in refused.stdout


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
            for name in ("HF_HOME", "TORCH_HOME"):
                assert not Path(container.environment[name]).exists()  # nothing downloaded
            assert cookie(address) == {"Path=/", "SameSite=Lax"}
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
    assert not (container.prefix / "home/user/.cache/huggingface").exists()


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
        "SR3_TLS": str(certificate), "PYTHONFAULTHANDLER": "1",
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
            secure = {"Path=/", "SameSite=None", "Secure"}
            assert cookie(f"https://127.0.0.1:{port}") - secure == (
                {"Partitioned"} if entry == "space" else set()
            )
            browser = launch(
                chromium.browser_type, "--test-third-party-cookie-phaseout",
                "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
                "--host-resolver-rules=MAP space.test 127.0.0.1,MAP site.example 127.0.0.1",
            )  # fmt: skip
            try:
                drive(browser, f"https://site.example:{outer}", allowed=entry == "space")
            finally:
                browser.close()


# A photograph taken before the camera's first frame is none.
PLAYING = """video => new Promise(done => {
    const look = () => video.videoWidth && video.readyState >= 2 ? done() : setTimeout(look, 50);
    look();
})"""


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
    app.locator("video").evaluate(PLAYING)
    deadline = time.monotonic() + 60
    while len(answers) < 2 and time.monotonic() < deadline:
        if shoot.is_visible():  # pressed while the camera is opened anew at its final width: lost
            shoot.click()
        page.wait_for_timeout(2000)
    assert answers == [204, 204]
