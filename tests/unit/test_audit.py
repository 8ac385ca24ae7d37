"""The audit never takes silence for a clean bill."""

import json

import pytest

from infra import audit

WANTED = {"alpha": "1.0", "beta-two": "2.0"}
CLEAN = [{"name": "alpha", "version": "1.0", "vulns": []}, {"name": "Beta_Two", "version": "2.0", "vulns": []}]
SKIPPED = {"name": "beta-two", "skip_reason": "not found on PyPI"}
HIT = {"name": "beta-two", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        (CLEAN, audit.CLEAN, "nothing known against any of 2 packages"),
        ([CLEAN[0], HIT], audit.VULNERABLE, "beta-two 2.0: PYSEC-1, fixed in 2.1"),
        ([HIT], audit.VULNERABLE, "beta-two 2.0: PYSEC-1, fixed in 2.1"),
        ([CLEAN[0], SKIPPED], audit.NOT_AUDITED, "1 of 2 packages were not audited: beta-two"),
        ([], audit.NOT_AUDITED, "2 of 2 packages were not audited: alpha, beta-two"),
    ],
)
def test_a_package_nobody_looked_at_is_not_clean(dependencies, code, said):
    found, lines = audit.verdict(dependencies, WANTED)
    assert (found, lines[0]) == (code, said)


def test_the_lock_is_read_whole():
    pinned = [line for line in audit.LOCK.read_text().splitlines() if "==" in line and not line.startswith("#")]
    assert len(audit.locked()) == len(pinned) > 300


def test_components_are_named_as_pypi_names_them():
    assert audit.components({"components": [{"name": "Beta_Two", "version": "2.0"}]}) == {"beta-two": "2.0"}


@pytest.mark.integration
def test_the_sbom_lists_exactly_the_packages_of_the_lock_and_is_the_same_each_time(tmp_path):
    files = [tmp_path / name / "sbom.json" for name in ("one", "two")]
    for file in files:
        assert audit.write_sbom(file) is None
    bom = json.loads(files[0].read_text())
    assert bom["bomFormat"] == "CycloneDX" and audit.components(bom) == audit.locked()
    assert all(part["purl"] == f"pkg:pypi/{part['name']}@{part['version']}" for part in bom["components"])
    assert files[0].read_bytes() == files[1].read_bytes()
