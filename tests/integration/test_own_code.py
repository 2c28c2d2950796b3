"""The code that a user's own factory has is in the manifest, and a change of it is named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.programs import call, configure

MODULE = """
from river import linear_model, preprocessing


def model():
    # Comments may change.
    return preprocessing.StandardScaler() | Slow()


class Slow(linear_model.LogisticRegression):
    def learn_one(self, x, y):
        super().learn_one({name: value * 0.5 for name, value in x.items()}, y)
"""


class Setting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = folder / "ownmodel.py"
        self.module.write_text(MODULE)
        self.config = configure(
            folder,
            f"sqlite:///{folder / 'own.db'}",
            "own",
            learner='factory = "ownmodel:model"\nallow = ["ownmodel:Slow"]',
        )
        call("produce", "elec2", "-c", self.config, "--limit", "1000", cwd=folder)
        self.run(400)

    def run(self, events: int, code: int = 0) -> str:
        """What it said on standard error, in one line."""
        return " ".join(
            call("run", "-c", self.config, "--max-events", str(events), cwd=self.folder, code=code)[
                1
            ].split()
        )


def short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_the_manifest_has_the_hash_of_the_module(setting: Setting) -> None:
    out, _ = call("snapshots", "show", "-c", setting.config, cwd=setting.folder)
    sources = json.loads(out)["identity"]["sources"]
    assert sources == {"ownmodel": hashlib.sha256(MODULE.encode()).hexdigest()}
    assert "other code" not in setting.run(100)


def test_a_comment_is_a_warning_that_names_both(setting: Setting) -> None:
    edited = MODULE.replace("may change", "have changed")
    setting.module.write_text(edited)
    said = setting.run(100)
    assert "snapshot 1 of lineage own was made with other code" in said
    assert f"module ownmodel (SHA-256 {short(MODULE)}... -> {short(edited)}...)" in said
    assert "other code" not in setting.run(100), "the new snapshot has the new hash"
    call("snapshots", "verify", "-c", setting.config, cwd=setting.folder)


def test_code_that_learns_differently_does_not_verify_and_is_named(setting: Setting) -> None:
    edited = MODULE.replace("0.5", "0.25")
    setting.module.write_text(edited)
    _, said = call("snapshots", "verify", "-c", setting.config, cwd=setting.folder, code=3)
    assert f"changed since: the source of module ownmodel (SHA-256 {short(MODULE)}" in " ".join(
        said.split()
    )


def test_what_it_predicted_is_told_with_a_warning(setting: Setting) -> None:
    setting.module.write_text(MODULE.replace("0.5", "0.25"))
    out, said = call("why", "120", "-c", setting.config, cwd=setting.folder, code=3)
    assert "predicted" in out
    assert "changed since: the source of module ownmodel" in " ".join(said.split())


def test_code_that_builds_another_model_is_refused_and_named(setting: Setting) -> None:
    edited = MODULE.replace("Slow()", "Slow(l2=0.1)")
    setting.module.write_text(edited)
    said = setting.run(100, code=3)
    assert "made by another learner; changed: the source of module ownmodel" in said
    assert short(edited) in said
