"""A Spark session for one job, and Spark's failures as our own errors. It knows no job.

The driver binds to SPARK_LOCAL_IP (127.0.0.1 by default), the UI is off, and what the JVM has to say goes to a log
file. The JVM ends with this process, also when this process is killed.

For a master that is not `local[N]`, the code travels as a wheel, tasks are retried and slow ones run twice: what tasks
write is named by content and put whole, so a second run of one changes nothing. Credentials do not travel: executors
have those of their own worker's environment. What else a cluster wants is Spark's own spark-defaults.conf
(SPARK_CONF_DIR).
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pipelines import errors
from pipelines.errors import AssayError, BackendError, BadConfig, BadInput, MissingTool
from pipelines.settings import QUIET
from pipelines.shipping import archive, packed
from pipelines.temporary import temporary_folder

MASTER_PATIENCE = 5.0
"""Seconds for a master to answer; Spark itself would try for a minute and then say something else."""
EXECUTOR_PATIENCE = 120.0
"""Seconds until the cluster must have given one executor; Spark itself would wait for ever."""
_JAVA = "Spark needs Java 17 or newer; install the package openjdk-17-jre-headless, or set JAVA_HOME"
_OURS = re.compile(r"^pipelines\.errors\.(\w+): (.*)$", re.MULTILINE)


def check_java() -> int:
    """Java's major version, by JAVA_HOME or PATH; MissingTool names the package to install."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        raise MissingTool(_JAVA)
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError) as exc:
        raise MissingTool(f"{java} does not run. {_JAVA}") from exc
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < 17:
        raise MissingTool(f"{java} is version {found[1] if found else 'unknown'}. {_JAVA}")
    return int(found[1])


def is_local(master: str) -> bool:
    """True for local, local[N] and local[N,F]: everything in this process's JVM."""
    return master == "local" or master.startswith("local[")


def require_master(master: str) -> None:
    """BadConfig unless the master has a form that Spark knows and, for spark://HOST:PORT[,...], one of them answers."""
    form = "local[N], spark://HOST:PORT, yarn or k8s://URL"
    if is_local(master) or master == "yarn" or master.startswith("k8s://"):
        return
    if re.fullmatch(r"spark://[^\s:/,]+:\d{1,5}(,[^\s:/,]+:\d{1,5})*", master) is None:
        raise BadConfig(f"ASSAY_SPARK_MASTER is {master!r}; it is {form}")
    for address in master.removeprefix("spark://").split(","):
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host, int(port)), timeout=MASTER_PATIENCE).close()
            return
        except (OSError, OverflowError):
            continue
    raise BadConfig(f"ASSAY_SPARK_MASTER is {master}, where no master answers; start it, or unset it for local[2]")


_JVM: list[tuple[Any, Path]] = []
"""The one JVM of this process, once it runs, and the folder for its shuffle files: PySpark cannot have a second."""


def _gateway(master: str, scratch: Path) -> tuple[Any, Path]:
    """The JVM of this process, reused by later sessions; its files and log stay where the first session wanted them."""
    if _JVM:
        return _JVM[0]
    from pyspark import SparkConf
    from pyspark.java_gateway import launch_gateway

    check_java()
    scratch.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if is_local(master):
        os.environ["PYSPARK_PYTHON"] = sys.executable
    else:  # where the executors' machines have the lock's packages, when not at the same path
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    conf = SparkConf(loadDefaults=False).setMaster(master).set("spark.driver.memory", "1g")
    # The work is in the Python workers: compiling the JVM's code thoroughly costs more than it brings (29 to 15 CPU-s).
    conf.set("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    with (scratch / "spark.log").open("ab") as log:
        try:
            gateway = launch_gateway(conf, popen_kwargs={"stdout": log, "stderr": log})
        except Exception as exc:  # py4j and PySpark raise bare exceptions here
            raise BackendError(f"Spark's JVM did not start; see {scratch / 'spark.log'}") from exc
    kept = ExitStack()  # a JVM that is killed leaves its shuffle files
    atexit.register(kept.close)
    _JVM.append((gateway, kept.enter_context(temporary_folder(scratch, "local"))))
    return _JVM[0]


def _conf(master: str, local: Path) -> dict[str, str]:
    """What every session sets; a cluster's sizes (executors, cores, memory) are left to spark-defaults.conf."""
    here = os.environ["SPARK_LOCAL_IP"]
    conf = {
        "spark.driver.host": here,
        "spark.driver.bindAddress": here,
        "spark.local.dir": str(local),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Fixed partitions: which rows share a file must not depend on sizes seen at run time.
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1000",
    }
    if is_local(master):
        return conf
    quiet = {f"spark.executorEnv.{name}": value for name, value in QUIET.items()}
    return {
        **conf,
        **quiet,
        "spark.task.maxFailures": "4",
        "spark.speculation": "true",
        "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    }


def _join(context: Any, master: str, scratch: Path, folders: Mapping[str, Path]) -> None:
    """Ship the code and the folders to the cluster, and wait until it has given an executor."""
    context.addPyFile(str(archive(scratch.parent)))
    for digest, folder in folders.items():
        context.addArchive(f"{packed(folder, below=scratch.parent / 'shipped', name=digest)}#{digest}")
    deadline = time.monotonic() + EXECUTOR_PATIENCE
    tracker = context._jsc.sc().statusTracker()
    while len(tracker.getExecutorInfos()) < 2:  # the first is the driver
        if time.monotonic() > deadline:
            raise BackendError(
                f"{master} gave no executor within {EXECUTOR_PATIENCE:g} s: has it workers, are they free?"
            )
        time.sleep(0.2)


@contextmanager
def session(
    master: str, *, name: str, scratch: Path, folders: Mapping[str, Path] = MappingProxyType({})
) -> Iterator[Any]:
    """A SparkSession; stopped at the end of the block. `scratch` holds shuffle files while the JVM lives,
    and spark.log. `folders`, by their digests, are sent along to a cluster, where `shipping.arrived` finds them.

    Errors inside the block that come from Spark become ours: an AssayError raised in a worker is raised again as what
    it was, a full disk is a BadInput that names the folder, the rest are BackendError. BadConfig when the master does
    not answer; BackendError when it gives no executor.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    require_master(master)
    gateway, local = _gateway(master, scratch)
    conf = SparkConf(_jvm=gateway.jvm).setMaster(master).setAppName(name)
    for key, value in _conf(master, local).items():
        conf.set(key, value)
    try:
        context = SparkContext(conf=conf, gateway=gateway)
    except Exception as exc:  # py4j's errors
        raise _translated(exc, scratch) from exc
    context.setLogLevel("ERROR")
    try:
        if not is_local(master):
            _join(context, master, scratch, folders)
        yield SparkSession(context)
    except AssayError:
        raise
    except Exception as exc:
        raise _translated(exc, scratch) from exc
    finally:
        context.stop()


def _translated(exc: Exception, scratch: Path) -> Exception:
    """Our own error for what a worker or the JVM raised; other exceptions (bugs of ours) as they are."""
    text = str(exc)
    if ours := _OURS.findall(text):
        kind = getattr(errors, ours[-1][0], BackendError)
        return kind(ours[-1][1]) if issubclass(kind, AssayError) else BackendError(ours[-1][1])
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return BadInput(f"no space left in {scratch}; free some, or set ASSAY_HOME")
    if type(exc).__module__.split(".")[0] not in ("pyspark", "py4j"):
        return exc
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(exc).__name__]
    return BackendError(f"Spark failed: {lines[-1][:200]} (see {scratch / 'spark.log'})")


def read_parts(spark: Any, keys: list[str], read: Callable[[str], Iterable[Any]], schema: str) -> Any:
    """A DataFrame of what `read(key)` yields (Arrow batches of `schema`, a DDL string), one task per key.

    The engine never opens the objects itself: workers read and write them by the same store as everything else,
    so a folder and S3 behave alike and Spark needs no file-system jars.
    """

    def work(batches: Iterable[Any]) -> Iterator[Any]:
        for batch in batches:
            for key in batch.column(0).to_pylist():
                yield from read(key)

    named = spark.createDataFrame([(key,) for key in keys], "key string")
    return named.repartition(max(1, len(keys)), "key").mapInArrow(work, schema)


@contextmanager
def watch(spark: Any, say: Callable[[float], None], *, every: float = 5.0) -> Iterator[None]:
    """While the block runs, call `say` with the share of tasks of the running stages that are done, when it grew."""
    done = threading.Event()
    tracker = spark.sparkContext.statusTracker()

    def look() -> None:
        last = 0.0
        while not done.wait(every):
            infos = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            tasks = sum(info.numTasks for info in infos if info)
            share = sum(info.numCompletedTasks for info in infos if info) / tasks if tasks else 0.0
            if share > last:
                last = share
                say(share)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def each(
    spark: Any,
    work: Callable[..., Any],
    tasks: Sequence[Any],
    *,
    say: Callable[[float], None] | None = None,
    give: Callable[[Any], Iterable[tuple[int, bytes]]] | None = None,
    givers: Sequence[Any] = (),
) -> list[Any]:
    """`work` of every task, one Spark task each; the results in order. `say` hears what share is done.

    With `givers` it is `work(task, pieces)`, the pieces being all that `give(giver)` yields for the task's place among
    the tasks, in any order. Each giver is a Spark task too; pieces pass through Spark's shuffle, which is on disk.
    """
    context, count = spark.sparkContext, len(tasks)
    with watch(spark, say) if say else nullcontext():
        if give is None or not givers:
            return list(context.parallelize(tasks, count).map(work).collect())

        def finish(placed: Iterable[tuple[int, Any]]) -> Iterator[Any]:
            values = [value for _, value in placed]
            pieces = [value for value in values if isinstance(value, bytes)]
            (task,) = (value for value in values if not isinstance(value, bytes))
            yield work(task, pieces)

        given = context.parallelize(givers, len(givers)).flatMap(give)
        placed = context.parallelize(list(enumerate(tasks)), count).union(given)
        return list(placed.partitionBy(count, int).mapPartitions(finish).collect())
