"""Folders of dead processes go when the next job begins, those of the living stay."""

import signal
import subprocess
import sys
from pathlib import Path

from pipelines.temporary import temporary_folder

HOLD = """
import sys, time
from pathlib import Path
from pipelines.temporary import temporary_folder
with temporary_folder(Path(sys.argv[1]), "work") as folder:
    (folder / "rows").write_text("many")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_needs_stays(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    theirs = Path(process.stdout.readline().strip())
    with temporary_folder(tmp_path, "work") as mine, temporary_folder(tmp_path, "other") as other:
        assert (theirs / "rows").is_file() and not list(mine.iterdir()) and other.is_dir()
    assert not mine.exists() and not other.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert (theirs / "rows").is_file()
    with temporary_folder(tmp_path, "other"):
        assert theirs.is_dir()  # of another kind of job
    with temporary_folder(tmp_path, "work"):
        assert not theirs.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]
