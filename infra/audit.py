"""The lock's packages as a CycloneDX SBOM, and their known vulnerabilities by pip-audit: `make audit`.

Both tools run in environments of their own (`uv tool run`), so that they add nothing to what is audited. Advisories
come from PyPI, else from OSV. Where neither can be asked about every package, that is said and the exit code is
NOT_AUDITED: silence about a package is no clean bill.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.settings import checkout

LOCK = checkout() / "requirements.lock"
SBOM_TOOL, AUDIT_TOOL = "cyclonedx-bom==7.5.0", "pip-audit==2.10.1"
CLEAN, VULNERABLE, BROKEN, NOT_AUDITED = 0, 1, 2, 3
"""Exit codes: nothing known against any package; something is; a tool failed; the advisories could not be had."""
SERVICES = ("pypi", "osv")


def locked(lock: Path = LOCK) -> dict[str, str]:
    """Name (as PEP 503 normalises it) -> version of every package of the lock."""
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {normal(name): version for name, version in found}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def components(bom: Mapping[str, Any]) -> dict[str, str]:
    """Name -> version of what a CycloneDX document lists."""
    return {normal(part["name"]): part["version"] for part in bom["components"]}


def _tool(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "UV_FIND_LINKS": os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", ""),
    }
    return subprocess.run(
        ["uv", "tool", "run", *command], env=environment, capture_output=True, text=True, check=False, timeout=900
    )


def write_sbom(target: Path, lock: Path = LOCK) -> str | None:
    """Write the SBOM; what went wrong, in one line, or None. The same lock gives the same bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ("--output-reproducible", "--of", "JSON", "-o", str(target))
    done = _tool("--from", SBOM_TOOL, "cyclonedx-py", "requirements", str(lock), *options)
    if done.returncode:
        return f"{SBOM_TOOL} failed: {_last(done.stderr)}"
    if components(json.loads(target.read_text(encoding="utf-8"))) != locked(lock):
        return f"{target} does not list exactly the packages of {lock.name}"
    return None


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1][:300]


def verdict(dependencies: Sequence[Mapping[str, Any]], wanted: Mapping[str, str]) -> tuple[int, list[str]]:
    """(exit code, lines) of pip-audit's findings; a package that was skipped or is not mentioned was not audited."""
    asked = {normal(row["name"]) for row in dependencies if "vulns" in row and "skip_reason" not in row}
    silent = sorted(wanted.keys() - asked)
    known = [
        f"{row['name']} {row['version']}: {vuln['id']}, fixed in {', '.join(vuln['fix_versions']) or 'no release'}"
        for row in dependencies
        for vuln in row.get("vulns", [])
    ]
    if known:
        return VULNERABLE, [*known, *([f"{len(silent)} packages were not audited"] if silent else [])]
    if silent:
        more = f" and {len(silent) - 5} more" if len(silent) > 5 else ""
        return NOT_AUDITED, [f"{len(silent)} of {len(wanted)} packages were not audited: {', '.join(silent[:5])}{more}"]
    return CLEAN, [f"nothing known against any of {len(wanted)} packages"]


def audit(lock: Path = LOCK) -> tuple[int, list[str]]:
    """(exit code, lines); the first service that knows every package, or that knows something against one, decides."""
    said = []
    for service in SERVICES:
        options = (
            "-r",
            str(lock),
            "--no-deps",
            "--disable-pip",
            "-f",
            "json",
            "-s",
            service,
            "--progress-spinner",
            "off",
        )
        done = _tool("--from", AUDIT_TOOL, "pip-audit", *options)
        try:
            dependencies = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            said.append(f"{service} cannot be asked: {_last(done.stderr)}")
            continue
        code, lines = verdict(dependencies, locked(lock))
        if code != NOT_AUDITED:
            return code, lines
        said += [f"{service}: {line}" for line in lines]
    return NOT_AUDITED, ["NOT AUDITED: the advisories cannot be had from here", *said]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sbom", type=Path, default=Path(".assay") / "reports" / "sbom.cdx.json", help="where it goes")
    parser.add_argument("--sbom-only", action="store_true", help="write the SBOM and ask nobody about vulnerabilities")
    options = parser.parse_args()
    if problem := write_sbom(options.sbom):
        print(f"audit: {problem}", file=sys.stderr)
        return BROKEN
    print(f"audit: {len(locked())} packages in {options.sbom}")
    if options.sbom_only:
        return CLEAN
    code, lines = audit()
    print("\n".join(f"audit: {line}" for line in lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
