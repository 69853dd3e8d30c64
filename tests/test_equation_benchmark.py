"""The benchmark of displayed equations: LaTeX and MathML as the same signs, and scores of planted cases."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from hiperrag.benchmarks.parsing import equations, formulas
from hiperrag.records import Block

BOX = (50.0, 100.0, 300.0, 120.0)
FRACTION = "<mfrac><mrow><mi>a</mi><mo>+</mo><mn>12</mn></mrow><msub><mi>b</mi><mi>i</mi></msub></mfrac>"
ACCENT = "<mover><mi>E</mi><mo>˙</mo></mover>"


def mathml(inner: str) -> list[str]:
    return formulas.of_mathml(ElementTree.fromstring(f"<math>{inner}</math>"))


@pytest.mark.parametrize(
    ("latex", "inner"),
    [
        ("\\frac{a + 12}{b_{i}}", FRACTION),
        ("\\dot{E}_{i} = \\mathrm{ln} x \\tag{3}", f"<msub>{ACCENT}<mi>i</mi></msub><mo>=</mo><mi>ln</mi><mi>x</mi>"),
        ("\\sum_{i}^{n} x^{2}",
         "<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover><msup><mi>x</mi><mn>2</mn></msup>"),
        ("f \\left( x' \\right) \\leq \\sqrt{y}",
         "<mi>f</mi><mfenced><msup><mi>x</mi><mo>′</mo></msup></mfenced><mo>≤</mo><msqrt><mi>y</mi></msqrt>"),
    ],
)  # fmt: skip
def test_latex_and_mathml_of_one_formula_are_the_same_signs(latex: str, inner: str) -> None:
    assert formulas.of_latex(latex) == mathml(inner)


def test_another_layout_is_another_formula_of_the_same_signs() -> None:
    raised, lowered = formulas.of_latex("x^{2}"), formulas.of_latex("x_{2}")
    assert raised != lowered
    assert formulas.printed(raised) == formulas.printed(lowered) == ["x", "2"]


def test_each_block_counts_for_one_equation() -> None:
    truth = [formulas.of_latex(text) for text in ("a = b + c", "x = \\frac{y}{z} + k", "p = q r s t u")]
    blocks = [
        Block(1, "equation", BOX, "a = b + c", latex="a = b + c"),
        Block(1, "equation", BOX, "x = y z + k"),
        Block(1, "equation", BOX, "no formula of these"),
        Block(1, "paragraph", BOX, "p = q r s t u"),
    ]
    found, extra = equations.score("one", blocks, truth)
    assert [equation.found is not None for equation in found] == [True, True, False]
    assert [equation.layout for equation in found] == [1.0, 0.0, 0.0]  # without LaTeX nothing is right
    assert extra == 1

    summary = equations.summarise(found, extra)
    assert summary["found"]["mean"] == pytest.approx(2 / 3)
    assert summary["layout"]["low"] <= summary["layout"]["mean"] <= summary["layout"]["high"]
    assert summary["layout_of_latex"]["n"] == 1


def test_only_displayed_equations_with_mathml_are_wanted() -> None:
    display = f'<disp-formula><math xmlns="http://www.w3.org/1998/Math/MathML">{FRACTION}</math></disp-formula>'
    jats = f"<article><body>{display}<disp-formula>a = b</disp-formula></body></article>"
    assert equations.truth_of(jats.encode()) == [mathml(FRACTION)]
