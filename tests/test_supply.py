"""What comes along with flambeau, and from where."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("frontend", "worker", "handlers", "model_store", "archiver", "docker", "examples")
FOLDERS += ("benchmarks", ".ci")
# A name without a dot is one of the local network, such as a service's in a compose file.
OURS = re.compile(r"127\.0\.0\.1|0\.0\.0\.0|\[::1?\]|\{|(.+\.)?example\.(com|org)|[^.]+$")
URL = re.compile(r"\b(?:https?|s3|gs|ftp)://([^/\s:\"'`,)\\]+)")


def test_there_are_few_packages_to_trust() -> None:
    required = [
        line for line in importlib.metadata.requires("flambeau") or () if "extra ==" not in line
    ]
    assert 0 < len(required) < 15, required


def test_nothing_is_fetched_from_places_that_are_not_ours() -> None:
    """TorchServe's scripts name a bucket that anybody could have claimed (CVE-2024-6577)."""
    files = [ROOT / "Makefile"]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    places = set()
    for path in files:
        if path.suffix in (".pyc", ".binpb", ".json", ".png"):
            continue
        for host in URL.findall(path.read_text(encoding="utf-8", errors="replace")):
            if not OURS.match(host):
                places.add((path.relative_to(ROOT).as_posix(), host))
    assert places == set()
