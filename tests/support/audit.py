"""Check the packages in the lock files for known vulnerabilities: `make audit`.

The exit code is 1 if it finds one. If no vulnerability service answers, it prints that nothing was audited, and the
exit code is 0.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit==2.10.1"
LOCKS = ("requirements.lock", "requirements-dev.lock")
SERVICES = ("pypi", "osv")
"""The vulnerability services; the second is used if the first does not answer."""


def verdict(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return a line for each vulnerability in pip-audit's report, and the names of packages that it could not check."""
    vulnerabilities, unknown = [], []
    for one in report["dependencies"]:
        if "skip_reason" in one:
            unknown.append(one["name"])
        for vulnerability in one.get("vulns", ()):
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            vulnerabilities.append(f"{one['name']} {one['version']}: {vulnerability['id']}, fixed in {fixed}")
    return vulnerabilities, unknown


def query(program: Path, lock: str, service: str) -> Mapping[str, Any] | None:
    """Return the report on a lock file; None if the service does not answer."""
    command = [str(program), "--requirement", lock, "--vulnerability-service", service, "--no-deps", "--disable-pip"]
    options = ["--progress-spinner", "off", "--timeout", "10", "--format", "json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    try:
        report: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        return None
    return report


def install(folder: Path) -> Path | None:
    """Install pip-audit in an environment of its own, since tminus does not need its dependencies. Return its path, or
    None if it cannot be installed.
    """
    program = folder / "bin" / "pip-audit"
    if not program.exists():
        pip = [str(folder / "bin" / "pip"), "--disable-pip-version-check", "--quiet", "install", PIP_AUDIT]
        for command in ([sys.executable, "-m", "venv", str(folder)], pip):
            if subprocess.run(command, check=False, capture_output=True).returncode:
                return None
    return program


def main() -> int:
    program = install(Path(sys.argv[1]))
    if program is None:
        print(f"NOT AUDITED: {PIP_AUDIT} cannot be installed from here")
        return 0
    found = 0
    for lock in LOCKS:
        vulnerabilities: list[str] = []
        unknown = ["all packages"]
        for service in SERVICES:
            if unknown and (report := query(program, lock, service)) is not None:
                vulnerabilities, unknown = verdict(report)
        print(
            *(f"{lock}: {vulnerability}" for vulnerability in vulnerabilities),
            sep="\n",
            end="\n" if vulnerabilities else "",
        )
        if unknown:
            print(f"{lock}: NOT AUDITED, neither PyPI nor OSV answered: {', '.join(unknown)}")
        elif not vulnerabilities:
            print(f"{lock}: no known vulnerabilities")
        found += len(vulnerabilities)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
