"""The pass manager: order, pipelines as text, bisection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from xdsl.dialects.builtin import ArrayAttr
from xdsl.passes import ModulePass

from attnc.compiler import pass_manager
from attnc.compiler.errors import PipelineError
from attnc.compiler.instruments import Quiet
from attnc.compiler.pass_manager import Culprit, PassManager, bisect, parse_passes, pipeline_text
from attnc.ir import attn
from attnc.ir.attributes import strings
from attnc.ir.text import parse_module

MODULE = 'attn.func @f(%x: !attn.tensor<"N", f32>) { attn.return %x : !attn.tensor<"N", f32> }'


@dataclass(frozen=True)
class Trace(ModulePass):
    """Notes its own name on the function."""

    name = "trace"
    label: str = "a"

    def apply(self, ctx, op):
        func = attn.func_of(op)
        func.attributes["trace"] = ArrayAttr(strings([*trace(op), self.label]))


def trace(module):
    found = attn.func_of(module).attributes.get("trace")
    return [s.data for s in found] if found else []


class Log(Quiet):
    def __init__(self, lines, name, allow=True):
        self.lines, self.name, self.allow = lines, name, allow

    def should_run(self, pass_, module):
        self.lines.append(f"{self.name}?{pass_.label}")
        return self.allow

    def before(self, pass_, module):
        self.lines.append(f"{self.name}<{pass_.label}")

    def after(self, pass_, module):
        self.lines.append(f"{self.name}>{pass_.label}")


def test_instruments_nest_around_passes():
    lines = []
    module = parse_module(MODULE)
    assert PassManager([Trace("a"), Trace("b")], [Log(lines, "x"), Log(lines, "y")]).run(module) is module
    assert trace(module) == ["a", "b"]
    assert lines == ["x?a", "y?a", "x<a", "y<a", "y>a", "x>a", "x?b", "y?b", "x<b", "y<b", "y>b", "x>b"]


def test_one_refusal_is_enough_and_all_are_asked():
    lines = []
    module = PassManager([Trace("a")], [Log(lines, "x", allow=False), Log(lines, "y")]).run(parse_module(MODULE))
    assert trace(module) == []
    assert lines == ["x?a", "y?a"]


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(pass_manager, "PASSES", {"trace": "", "dilation": ""})
    monkeypatch.setattr(pass_manager, "load_pass", {"trace": Trace}.__getitem__)


@pytest.mark.usefixtures("known")
def test_pipeline_text_round_trip():
    passes = parse_passes('trace,trace{label="b"},trace{label=cpu-avx512}')
    assert passes == [Trace(), Trace("b"), Trace("cpu-avx512")]
    assert parse_passes(pipeline_text(passes)) == passes


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    "text, message",
    [
        ("dilatoin", "there is no pass 'dilatoin'; did you mean 'dilation'\\? Known: dilation, trace"),
        ("trace{lable=b}", "the pass trace has no option 'lable'; did you mean 'label'\\? Known: label"),
        ("trace{label=3}", "the pass trace: "),
        ("trace{", "cannot read the pipeline 'trace{'"),
    ],
)
def test_pipeline_errors(text, message):
    with pytest.raises(PipelineError, match=message):
        parse_passes(text)


@pytest.mark.parametrize("bad", ["a", "c", "f", "g"])
def test_bisect_finds_the_pass(bad):
    runs = []

    def check(module):
        runs.append(trace(module))
        return bad not in trace(module)

    found = bisect(parse_module(MODULE), check, lambda: [Trace(c) for c in "abcdefg"])
    assert found == Culprit("abcdefg".index(bad) + 1, "trace")
    assert len(runs) <= 5


def test_bisect_when_all_is_well():
    assert bisect(parse_module(MODULE), lambda _: True, lambda: [Trace("a")]) is None


def test_bisect_when_nothing_helps():
    with pytest.raises(PipelineError, match="even without any optional pass"):
        bisect(parse_module(MODULE), lambda _: False, lambda: [Trace("a")])


def test_the_table_is_whole():
    """Every pass of the table exists under its own name, and its file is named after it."""
    from attnc.compiler.passes import PASSES, load_pass

    for name, entry in PASSES.items():
        file = entry.split(":")[0]
        assert file == name.replace("-", "_")
        cls = load_pass(name)
        assert cls.name == name
        assert Path(__import__(cls.__module__, fromlist=["_"]).__file__).stem == file
