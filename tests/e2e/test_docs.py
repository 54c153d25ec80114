"""The docs say what the code does: cards are current, the README's Python runs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_cards_are_those_of_the_code():
    page = runpy.run_path(str(ROOT / "docs" / "make_cards.py"))["page"]
    assert (ROOT / "docs" / "cards.md").read_text(encoding="utf-8") == page(), "run `make docs`"


def test_the_readmes_python_runs_as_it_stands(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    code = block + '\nprint(*findings, sep="\\n")\n'
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 100_000
    for name in ("accuracy", "loss_attack", "output_divergence", "weight_distance", "cost"):
        assert f"{name}: " in done.stdout


def test_links_in_the_docs_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
