"""Check the distributions of a release: one wheel and one source distribution, small, of the version of the tag.

`python .ci/release.py DIST [TAG]`
"""

import sys
import tomllib
from pathlib import Path

LARGEST_WHEEL = 1_500_000
"""Largest size of the wheel in bytes."""


def problems(dist: Path, version: str, tag: str) -> list[str]:
    """Return what is wrong with the distributions in a folder, as sentences.

    Args:
        dist: the folder.
        version: version in pyproject.toml.
        tag: the tag that is released, or "" if there is none.
    """
    found = []
    if tag and tag != f"v{version}":
        found.append(
            f"the tag is {tag}, but pyproject.toml has version {version}: expected the tag v{version}"
        )
    names = sorted(path.name for path in dist.iterdir())
    expected = [f"tal_conformance-{version}-py3-none-any.whl", f"tal_conformance-{version}.tar.gz"]
    if names != expected:
        found.append(f"{dist} has {', '.join(names) or 'no file'}: expected {', '.join(expected)}")
    for wheel in dist.glob("*.whl"):
        size = wheel.stat().st_size
        if size > LARGEST_WHEEL:
            found.append(f"{wheel.name} has {size:,} bytes: expected at most {LARGEST_WHEEL:,}")
    return found


def changelog_problems(version: str, changelog: str) -> list[str]:
    """Return a sentence if the text of the changelog has no section for the version."""
    if f"\n## [{version}]" in changelog:
        return []
    return [
        f"CHANGELOG.md has no section for version {version}: expected `towncrier build --version {version}`"
    ]


def main(dist: str, tag: str = "") -> int:
    """Print what is wrong, and return the exit status: 1 if something is."""
    text = Path("pyproject.toml").read_text(encoding="utf-8")
    version = tomllib.loads(text)["project"]["version"]
    changelog = Path("CHANGELOG.md").read_text(encoding="utf-8")
    found = [*problems(Path(dist), version, tag), *changelog_problems(version, changelog)]
    for line in found:
        print(line, file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
