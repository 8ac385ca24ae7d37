"""Where Assay runs, from the environment. Knobs that change a result are in params.yaml, not here.

| variable | default | is |
|---|---|---|
| ASSAY_HOME | `.assay` in the current folder | everything Assay writes |
| ASSAY_PARAMS | `params.yaml` of the checkout | the parameter file |
| ASSAY_OBJECTS_URI | `ASSAY_HOME/objects` | object store: a folder or `s3://bucket/prefix` |
| ASSAY_DVC_REMOTE_URI | `ASSAY_HOME/remotes`; with objects on S3 their `dvc/` | DVC remotes: a folder or `s3://...` |
| ASSAY_MILVUS_URI | running server's address, else `ASSAY_HOME/milvus/lite.db` | Milvus |
| ASSAY_MILVUS_BULK | none: rows are sent | to import by: the server's own storage, `s3://bucket/prefix` or a folder |
| MLFLOW_TRACKING_URI | `sqlite:///ASSAY_HOME/mlflow/mlflow.db` | MLflow |
| ASSAY_SPARK_MASTER | `local[2]` | Spark: also `spark://HOST:PORT`, `yarn`, `k8s://URL` |
| ASSAY_DEVICE | `cpu` (OpenVINO) | what embeds and trains: also `cuda`, `cuda:N`; `torch-cpu` queries a GPU's index |
| ASSAY_OPENAI_BASE_URL | none | where the endpoint `openai` of a definition in models/ is: https, or http on loopback |
| ASSAY_OPENAI_API_KEY | none | the key to it; of an endpoint of another name: ASSAY_NAME_BASE_URL, ASSAY_NAME_API_KEY |
| ASSAY_SIGNING_KEY | `ASSAY_HOME/keys/release.pem`, made on first use | signs: a file, `env` or `awskms:KEY` |
| ASSAY_SIGNING_KEY_PEM | none | for `env`: the private key itself |
| ASSAY_AIRFLOW_PORT, ASSAY_MLFLOW_PORT, ASSAY_MILVUS_PORT, ASSAY_SPARK_PORT | 8080, 5000, 19530, 7077 | services here |

Vendors' own variables are read by the vendors: AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID and the like for S3
(credentials come from there alone); SPARK_LOCAL_IP (where the driver binds and is reached, 127.0.0.1 by default),
SPARK_CONF_DIR and PYSPARK_PYTHON (the executors' interpreter) for Spark.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pipelines
from pipelines.errors import BadConfig

QUIET = {
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A tracking server that is down is an error after a quarter of a minute, not after four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # Stages run side by side: a thread that waits must not keep a core from the other.
    "OMP_WAIT_POLICY": "PASSIVE",
    # glibc hands a large freed tensor back to the kernel and asks for it again: a quarter of the time of a forward
    # pass. Read at a process's start, so this holds for the processes that stages run in.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}
"""Telemetry off, no hub at run time, short retries, no busy waiting, memory kept; set before any vendor is imported."""


@dataclass(frozen=True)
class KeyReference:
    """A signing key that lies in no file: `env`, with its PEM, or the URI of a key in a KMS; and the file of its public
    half."""

    uri: str
    public: Path
    pem: str | None = field(default=None, repr=False)


def checkout() -> Path:
    """The folder that holds dvc.yaml, params.yaml and models/: the checkout, or the wheel's copy of them."""
    here = Path(pipelines.__file__).resolve().parent
    return here.parent if (here.parent / "dvc.yaml").is_file() else here / "_checkout"


def on_loopback(url: str) -> bool:
    """True when an address can only be this machine."""
    return re.fullmatch(r"localhost|127(\.\d{1,3}){3}|::1", urlsplit(url).hostname or "") is not None


def endpoint_url(name: str) -> str:
    """Where the endpoint `name` is, without a slash at the end. BadConfig unless the variable holds https, or http on
    loopback, without user, password or query: what is sent there is confidential, and an address goes into digests."""
    variable = f"ASSAY_{name.upper()}_BASE_URL"
    url = (os.environ.get(variable) or "").strip().rstrip("/")
    if not url:
        raise BadConfig(f"{variable} is not set; it is the base URL of endpoint {name}, e.g. https://HOST/v1")
    form = f"{variable} must be https://HOST[:PORT]/PATH, or http on 127.0.0.1, without user, password and query"
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError as exc:
        raise BadConfig(form) from exc
    safe = parts.scheme == "https" or (parts.scheme == "http" and on_loopback(url))
    if not whole or not safe or "@" in parts.netloc or parts.query or parts.fragment:
        raise BadConfig(form)
    return url


def endpoint_key(name: str) -> str:
    """The key to the endpoint `name`; read where a connection is made, and kept nowhere. BadConfig when it is not set
    or cannot be sent in a header."""
    variable = f"ASSAY_{name.upper()}_API_KEY"
    key = (os.environ.get(variable) or "").strip()
    if not key:
        raise BadConfig(
            f"{variable} is not set; it is the key to endpoint {name} (any word where the server asks none)"
        )
    if re.fullmatch(r"[\x21-\x7e]+", key) is None:
        raise BadConfig(f"{variable} holds characters that a key cannot have")
    return key


@dataclass(frozen=True)
class Settings:
    """The environment, read once."""

    home: Path
    params_file: Path
    spark_master: str

    @classmethod
    def from_env(cls) -> Settings:
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        home = Path(os.environ.get("ASSAY_HOME") or ".assay").expanduser().resolve()
        if home.exists() and not home.is_dir():
            raise BadConfig(f"ASSAY_HOME is {home}, which is not a folder")
        # Subprocesses (DVC, Spark workers, MLflow) see the same home whatever their working folder.
        os.environ["ASSAY_HOME"] = str(home)
        for name in ("ASSAY_OBJECTS_URI", "ASSAY_DVC_REMOTE_URI"):
            place = os.environ.get(name)
            if place and "://" not in place:
                os.environ[name] = str(Path(place).expanduser().resolve())
        params_file = Path(os.environ.get("ASSAY_PARAMS") or checkout() / "params.yaml").expanduser().resolve()
        os.environ["ASSAY_PARAMS"] = str(params_file)
        return cls(home, params_file, os.environ.get("ASSAY_SPARK_MASTER") or "local[2]")

    def workspace(self, corpus: str) -> Path:
        return self.home / "workspaces" / corpus

    @property
    def objects_uri(self) -> str:
        return os.environ.get("ASSAY_OBJECTS_URI") or str(self.home / "objects")

    def dvc_remote(self, corpus: str) -> str:
        """Where DVC keeps the data of a corpus's revisions: a folder or `s3://...`. BadConfig for other addresses."""
        place = os.environ.get("ASSAY_DVC_REMOTE_URI")
        if place and "://" in place and not place.startswith("s3://"):
            raise BadConfig(f"ASSAY_DVC_REMOTE_URI is {place!r}; it is a folder or s3://bucket/prefix")
        if not place:
            place = f"{self.objects_uri.rstrip('/')}/dvc" if "://" in self.objects_uri else str(self.home / "remotes")
        return f"{place.rstrip('/')}/{corpus}"

    @property
    def device(self) -> str:
        """What embeds (`cpu` is OpenVINO, the others torch) and trains. BadConfig for anything else."""
        device = os.environ.get("ASSAY_DEVICE") or "cpu"
        if re.fullmatch(r"cpu|torch-cpu|cuda(:\d+)?", device) is None:
            raise BadConfig(f"ASSAY_DEVICE is {device!r}; one of cpu, cuda, cuda:N, torch-cpu")
        return device

    @property
    def cache(self) -> Path:
        """Exports and converted weights by digest; may be deleted at any time."""
        return self.home / "cache"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def signing_key(self) -> Path | KeyReference:
        """The file of the private key, or what names a key that lies in no file."""
        file = self.home / "keys" / "release.pem"
        given = os.environ.get("ASSAY_SIGNING_KEY") or str(file)
        if re.fullmatch(r"env|(awskms|gcpkms|azurekms|hv):.+", given) is None:
            return Path(given)
        pem = os.environ.get("ASSAY_SIGNING_KEY_PEM") if given == "env" else None
        return KeyReference(given, file.with_name("release.pub.pem"), pem)

    @property
    def seen(self) -> Path:
        """A file per corpus: the newest generation that was ever read in this home."""
        return self.home / "run" / "seen"

    @property
    def services(self) -> dict[str, str]:
        """Addresses of services that `make up` or the demo left running (`run/services.json`), if they live."""
        try:
            known = json.loads((self.home / "run" / "services.json").read_text())
            os.kill(int(known["pid"]), 0)
        except (OSError, ValueError, KeyError):
            return {}
        return {key: str(value) for key, value in known.get("uris", {}).items()}

    @property
    def milvus_lite(self) -> Path:
        """The data folder of the embedded Milvus: opened by one process, or served by `make up` to several."""
        return self.home / "milvus" / "lite.db"

    @property
    def milvus_uri(self) -> str:
        return os.environ.get("ASSAY_MILVUS_URI") or self.services.get("milvus") or str(self.milvus_lite)

    @property
    def milvus_bulk_uri(self) -> str | None:
        return os.environ.get("ASSAY_MILVUS_BULK") or None

    @property
    def mlflow_uri(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"
