"""The figures of the samples, by the names their sources use. Data follow the models the papers state."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable

from reportlab.pdfgen.canvas import Canvas

from examples.typeset.boxes import Box
from examples.typeset.plot import Axis, Marker, Plot, arrow, put, ticks

_Drawing = Callable[[Canvas, float, float, float, float], None]
"""Draws into a rectangle: canvas, left, bottom, width, height."""
FIGURES: dict[str, Callable[[float], Box]] = {}
"""Name → a function from the width in points to the figure's box."""


def _figure(ratio: float, *, margins: tuple[float, float] = (34, 26)) -> Callable[[_Drawing], _Drawing]:
    """Register a drawing of height ratio × width; margins are left and bottom, for tick labels."""

    def register(drawing: _Drawing) -> _Drawing:
        def box(width: float) -> Box:
            def draw(canvas: Canvas, x: float, y: float) -> None:
                left, bottom = margins
                canvas.saveState()
                drawing(canvas, x + left, y - ratio * width + bottom, width - left - 8, ratio * width - bottom - 4)
                canvas.restoreState()

            return Box(ratio * width, draw)

        FIGURES[drawing.__name__.removeprefix("_")] = box
        return drawing

    return register


def _curve(function: Callable[[float], float], low: float, high: float, count: int = 120) -> list[tuple[float, float]]:
    step = (high - low) / count
    return [(low + i * step, function(low + i * step)) for i in range(count + 1)]


@_figure(0.66)
def _peat_nitrification(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    months = [(0, "May"), (2, "Jul"), (4, "Sep"), (12, "May"), (14, "Jul"), (16, "Sep")]
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(-1, 17.5, months, "2020                                        2021"),
        Axis(0, 2.5, ticks(0, 0.5, 1, 1.5, 2, 2.5), "Nitrification (µg N g⁻¹ h⁻¹)"),
    )
    times = [0, 0.9, 1.8, 2.7, 3.7, 4.5, 12, 13, 14.4, 15.2, 16.3]
    drained = [1.62, 1.88, 2.04, 1.97, 1.81, 1.55, 1.71, 1.93, 2.05, 1.92, 1.76]
    rewetted = [1.42, 1.08, 0.83, 0.79, 0.80, 0.72, 0.77, 0.84, 1.47, 0.78, 0.75]
    plot.line([(14.4, 0.0), (14.4, 2.5)], dash=(2, 2), width=0.5)
    for values, filled in ((drained, False), (rewetted, True)):
        for part in (slice(0, 6), slice(6, None)):
            plot.line(list(zip(times[part], values[part], strict=True)), width=0.6)
        plot.points(list(zip(times, values, strict=True)), filled=filled, error=0.12)
    plot.key([("drained", "circle", False, ()), ("rewetted", "circle", True, ())], 0.36, 0.16)


@_figure(0.36)
def _electrolyte_cycling(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    half = width / 2 - 24
    left = Plot(
        canvas,
        (x, y, half, height),
        Axis(0, 620, ticks(0, 100, 200, 300, 400, 500, 600), "Cycle"),
        Axis(50, 105, ticks(50, 60, 70, 80, 90, 100), "Capacity kept (%)"),
    )
    cells: list[tuple[str, float, Marker, bool]] = [
        ("0 wt%", 61.3, "circle", False),
        ("0.5 wt%", 74.9, "square", False),
        ("1.5 wt%", 88.7, "circle", True),
        ("4.0 wt%", 79.5, "triangle", True),
    ]
    for _, kept, shape, filled in cells:
        start = 98.6 if shape == "triangle" else 100.0
        decay = [(n, start - (start - kept) * (n / 600) ** 1.25) for n in range(0, 601, 50)]
        left.line(decay, width=0.5)
        left.points(decay, shape, filled=filled)
    left.key([(label, shape, filled, ()) for label, _, shape, filled in cells], 0.05, 0.36)
    put(canvas, x + half - 12, y + height - 11, "(a)")
    right = Plot(
        canvas,
        (x + half + 48, y, half, height),
        Axis(3.2, 4.2, ticks(3.2, 3.4, 3.6, 3.8, 4.0, 4.2), "1000/T (1/K)"),
        Axis(5, 4000, [(10, "10"), (100, "100"), (1000, "1000")], "Resistance (Ω cm²)", log=True),
    )
    rng = random.Random(4)
    for energy, base, filled, dash in ((0.58, 11.5, False, (3, 2)), (0.47, 11.7, True, ())):

        def law(inverse: float, energy: float = energy, base: float = base) -> float:
            return base * math.exp(energy / 8.617e-5 * (inverse / 1000 - 1 / 298))

        right.line(_curve(law, 3.3, 4.15), dash=dash)
        inverses = [1000 / (273 + celsius) for celsius in (-30, -20, -10, 0, 10, 25)]
        right.points([(i, law(i) * math.exp(rng.gauss(0, 0.03))) for i in inverses], filled=filled)
    right.key([("without", "circle", False, ()), ("1.5 wt% LiDFMB", "circle", True, ())], 0.06, 0.9)
    put(canvas, x + 2 * half + 36, y + 5, "(b)")


def _transit(hours: float, depth: float = 1.94, duration: float = 1.06) -> float:
    """Depth in millimagnitudes of a V-shaped transit with a rounded bottom."""
    phase = abs(hours) / (duration / 2)
    return depth * math.pow(max(0.0, 1 - phase**1.5), 1.15)


@_figure(0.42)
def _transit_lightcurve(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    rng = random.Random(417)
    low = height * 0.27
    hours = [rng.uniform(-1.7, 1.7) for _ in range(760)]
    noise = [rng.gauss(0, 0.85) for _ in hours]
    axis = Axis(-1.75, 1.75, ticks(-1.5, -1, -0.5, 0, 0.5, 1, 1.5), "Hours from mid-transit")
    quiet = Axis(-1.75, 1.75, [(value, "") for value, _ in axis.ticks], "")
    residual = Plot(canvas, (x, y, width, low - 4), axis, Axis(3, -3, ticks(-2, 0, 2), "Residual"))
    upper = Plot(
        canvas, (x, y + low, width, height - low), quiet, Axis(5, -3, ticks(-2, 0, 2, 4), "Δ magnitude (mmag)")
    )
    for time, error in zip(hours, noise, strict=True):
        if abs(_transit(time) + error - 1) < 3.9 and abs(error) < 2.9:
            upper.points([(time, _transit(time) + error)], "dot")
            residual.points([(time, error)], "dot")
    upper.line(_curve(_transit, -1.75, 1.75, 240), width=1.1)
    residual.line([(-1.75, 0), (1.75, 0)], width=0.7)
    for step in range(-25, 26):
        centre = step / 15
        near = [e for t, e in zip(hours, noise, strict=True) if abs(t - centre) <= 1 / 30]
        if len(near) > 2:
            mean = sum(near) / len(near)
            upper.points([(centre, _transit(centre) + mean)])
            residual.points([(centre, mean)])


@_figure(0.56)
def _fatigue_curves(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    decades = [(10.0**n, f"10{sup}") for n, sup in ((4, "⁴"), (5, "⁵"), (6, "⁶"), (7, "⁷"))]
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(1e4, 2.5e7, decades, "Cycles to fracture", log=True),
        Axis(70, 400, ticks(100, 200, 300, 400), "Stress amplitude (MPa)", log=True),
    )
    rng = random.Random(1147)
    plates: list[tuple[float, float, Marker, bool]] = [
        (142, -0.086, "square", False),
        (189, -0.086, "circle", False),
        (88, -0.141, "square", True),
        (97, -0.141, "circle", True),
    ]
    for strength, slope, shape, filled in plates:
        line = [(10**n, strength * math.pow(10, (n - 7) * slope)) for n in (4.3, 7.0)]
        plot.line(line, dash=(3, 2) if filled else (), width=0.6)
        for n in (4.6, 5.0, 5.4, 5.8, 6.2, 6.6, 6.9):
            cycles = math.pow(10, n + rng.gauss(0, 0.07))
            stress = strength * math.pow(cycles / 1e7, slope) * math.exp(rng.gauss(0, 0.02))
            plot.points([(cycles, stress)], shape, filled=filled)
        plot.points([(1e7, strength * 0.975)], shape, filled=filled)
        plot.arrow((1.12e7, strength * 0.975), (1.7e7, strength * 0.975))
    plot.key(
        [
            ("peened, air", "circle", False, ()),
            ("as rolled, air", "square", False, ()),
            ("peened, salt fog", "circle", True, ()),
            ("as rolled, salt fog", "square", True, ()),
        ],
        0.66,
        0.93,
    )


@_figure(0.62)
def _protein_melting(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(55, 95, ticks(55, 65, 75, 85, 95), "Temperature (°C)"),
        Axis(0, 70, ticks(0, 20, 40, 60), "Excess heat (kJ mol⁻¹ K⁻¹)"),
    )

    def heat(t: float, melting: float, peak: float) -> float:
        return peak / math.cosh((t - melting) / (2.1 if t < melting else 1.5)) ** 2

    for melting, peak, dash in ((84.6, 58.0, ()), (72.8, 47.0, (4, 2)), (69.3, 44.0, (1, 1.6))):
        plot.line(_curve(functools.partial(heat, melting=melting, peak=peak), 55, 95), dash=dash)
    put(canvas, *plot.place((86.5, 56)), "EstVK")
    put(canvas, *plot.place((74.5, 47)), "triple mutant")
    put(canvas, *plot.place((67.6, 44)), "EstM2", "r")


@_figure(0.56, margins=(8, 8))
def _seabird_map(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    def at(u: float, v: float) -> tuple[float, float]:
        return x + u * width, y + v * height

    canvas.setLineWidth(0.6)
    canvas.rect(x, y, width, height)
    path = canvas.beginPath()
    path.moveTo(*at(1, 0.96))
    shore = [(0.93, 0.9), (0.9, 0.8), (0.94, 0.72), (0.9, 0.6), (0.93, 0.5), (0.88, 0.4), (0.9, 0.28), (0.85, 0.2)]
    for u, v in [*shore, (0.86, 0.08), (0.82, 0.0), (1, 0)]:
        path.lineTo(*at(u, v))
    path.close()
    canvas.setFillGray(0.85)
    canvas.drawPath(path, fill=1)
    for (u, v), (a, b), name, size in (
        ((0.24, 0.2), (0.14, 0.15), "Meridian Shelf", 22),
        ((0.4, 0.76), (0.1, 0.1), "Brandt Rise", 9),
    ):
        for scale, grey in ((1.0, 0.93), (0.55, 0.78)):
            canvas.setFillGray(grey)
            (left, bottom), (right, top) = at(u - a * scale, v - b * scale), at(u + a * scale, v + b * scale)
            canvas.ellipse(left, bottom, right, top, fill=1)
        put(canvas, *at(u, v + b + 0.03), f"{name} (n = {size})", "c")
        canvas.setDash([3, 2])
        canvas.line(*at(0.78, 0.82), *at(u + 0.8 * a, v + 0.35 * b))
        canvas.setDash()
    path = canvas.beginPath()
    cx, cy = at(0.78, 0.82)
    for k in range(10):
        radius = 5 if k % 2 == 0 else 2
        angle = math.pi / 2 + k * math.pi / 5
        point = (cx + radius * math.cos(angle), cy + radius * math.sin(angle))
        (path.lineTo if k else path.moveTo)(*point)
    path.close()
    canvas.setFillGray(0)
    canvas.drawPath(path, fill=1)
    put(canvas, cx, cy + 8, "Skarvey", "c")
    left, bottom = at(0.56, 0.08)
    canvas.line(left, bottom, left + 0.12 * width, bottom)
    put(canvas, left + 0.06 * width, bottom + 3, "1,000 km", "c")


@_figure(0.6)
def _cement_heat(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(0, 60, ticks(0, 10, 20, 30, 40, 50, 60), "Time (h)"),
        Axis(0, 2.5, ticks(0, 0.5, 1, 1.5, 2, 2.5), "Heat flow (mW g⁻¹)"),
    )

    def hump(t: float, top: float, spread: float) -> float:
        return math.exp(-(((math.log(max(t, 0.2)) - math.log(top)) / spread) ** 2))

    plot.line(_curve(lambda t: 0.25 * (1 - math.exp(-t / 4)) + 1.45 * hump(t, 14, 0.62), 0.3, 60), dash=(1, 1.6))
    plot.line(_curve(lambda t: 0.23 * (1 - math.exp(-t / 4)) + 1.41 * hump(t, 14, 0.6), 0.3, 60), dash=(4, 2))
    plot.line(
        _curve(lambda t: 0.25 * (1 - math.exp(-t / 4)) + 1.82 * hump(t, 13, 0.5) + 0.85 * hump(t, 31, 0.16), 0.3, 60)
    )
    plot.arrow((34, 1.9), (31.6, 1.38))
    plot.key(
        [("15% marl, 780 °C", "", True, ()), ("15% marl, 700 °C", "", True, (4, 2)), ("plain", "", True, (1, 1.6))],
        0.55,
        0.9,
    )


@_figure(0.5)
def _tracer_breakthrough(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(20, 120, ticks(20, 40, 60, 80, 100, 120), "Days after injection"),
        Axis(0, 12, ticks(0, 3, 6, 9, 12), "Uranine (µg per litre)"),
    )

    def model(day: float) -> float:
        spread = 4 * 1.1 * day
        return 11.3 * math.sqrt(51 / day) * math.exp(-((164 - 3.2 * day) ** 2) / (3.2 * spread))

    rng = random.Random(3)
    plot.points(
        [
            (
                day,
                max(0.0, model(day) * (1 + rng.gauss(0, 0.04)) + (0.5 * math.exp(-(day - 70) / 25) if day > 62 else 0)),
            )
            for day in range(22, 119, 2)
        ],
        filled=False,
    )
    plot.line(_curve(model, 25, 118))


@_figure(0.58)
def _cohort_vents(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(0.4, 3.6, [(1, "2016/17"), (2, "2017/18"), (3, "2018/19")], "School year"),
        Axis(4, 7, ticks(4, 5, 6, 7), "Days absent per child"),
    )
    plot.line([(2.5, 4), (2.5, 7)], dash=(2, 2), width=0.5)
    for values, filled, shift in (((6.1, 5.9, 4.9), True, -0.05), ((5.6, 5.4, 5.4), False, 0.05)):
        points = [(n + shift, value) for n, value in enumerate(values, start=1)]
        plot.line(points, width=0.6)
        plot.points(points, "circle" if filled else "square", filled=filled, error=0.3 if filled else 0.18)
    plot.key([("vents in summer 2018", "circle", True, ()), ("other schools", "square", False, ())], 0.04, 0.13)


@_figure(0.74, margins=(4, 4))
def _compiler_flow(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    def node(u: float, v: float, lines: tuple[str, ...], grey: float = 1.0) -> None:
        left, bottom = x + u * width - 0.2 * width, y + v * height - 0.09 * height
        canvas.setFillGray(grey)
        canvas.setLineWidth(0.7)
        canvas.roundRect(left, bottom, 0.4 * width, 0.18 * height, 4, fill=1)
        for number, line in enumerate(lines):
            offset = (len(lines) - 1) * 4.2 - number * 8.4 - 2.4
            put(canvas, x + u * width, y + v * height + offset, line, "c")

    def link(a: tuple[float, float], b: tuple[float, float]) -> None:
        arrow(canvas, (x + a[0] * width, y + a[1] * height), (x + b[0] * width, y + b[1] * height))

    node(0.25, 0.88, ("object files",))
    node(0.25, 0.62, ("fingerprints", "(512 bits each)"))
    node(0.75, 0.88, ("profiled programs",), 0.88)
    node(0.75, 0.62, ("corpus of 6.2 million", "functions"), 0.88)
    node(0.25, 0.36, ("votes of 16 twins",))
    node(0.75, 0.36, ("call graph with", "edge weights"))
    node(0.75, 0.1, ("function order",))
    link((0.25, 0.79), (0.25, 0.71))
    link((0.75, 0.79), (0.75, 0.71))
    link((0.45, 0.62), (0.55, 0.62))
    link((0.6, 0.53), (0.4, 0.45))
    link((0.45, 0.36), (0.55, 0.36))
    link((0.75, 0.27), (0.75, 0.19))


@_figure(0.55)
def _lichen_curve(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(0, 240, ticks(0, 40, 80, 120, 160, 200, 240), "Age of the surface (years)"),
        Axis(0, 100, ticks(0, 20, 40, 60, 80, 100), "Diameter (mm)"),
    )
    rng = random.Random(63)
    surfaces: list[tuple[int, Marker, bool, float, float]] = [
        (38, "circle", False, 30, 228),
        (16, "square", True, 20, 170),
        (9, "triangle", True, 86, 86.9),
    ]
    for count, shape, filled, low, high in surfaces:
        ages = [rng.uniform(low, high) for _ in range(count)]
        plot.points([(age, max(2.0, 0.43 * (age - 14) + rng.gauss(0, 2.6))) for age in ages], shape, filled=filled)
    plot.line([(14, 0), (228, 0.43 * 214)])
    plot.key(
        [("gravestone", "circle", False, ()), ("bridge", "square", True, ()), ("road boulder", "triangle", True, ())],
        0.05,
        0.9,
    )


@_figure(0.5)
def _acoustics_spectrum(canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
    plot = Plot(
        canvas,
        (x, y, width, height),
        Axis(20, 10000, [(20, "20"), (100, "100"), (1000, "1000"), (10000, "10,000")], "Frequency (Hz)", log=True),
        Axis(45, 85, ticks(50, 60, 70, 80), "Level (dB re 1 µPa² Hz⁻¹)"),
    )
    frequencies = [20 * math.pow(500, i / 260) for i in range(261)]

    def level(f: float, *, diesel: bool) -> float:
        base = 76 - 7.5 * math.pow(abs(math.log10(f / 70)), 1.6)
        if not diesel:
            base -= 7.4 / (1 + (f / 700) ** 2)
            return base + 1.8 / (1 + (2000 / f) ** 3)
        hum = sum(5.5 / n * math.exp(-((math.log(f / (87 * n)) / 0.022) ** 2)) for n in (1, 2, 3))
        return base + hum

    plot.line([(f, level(f, diesel=True)) for f in frequencies], dash=(3, 1.6))
    plot.line([(f, level(f, diesel=False)) for f in frequencies])
    plot.key([("before (Ravn)", "", True, (3, 1.6)), ("after (Terne)", "", True, ())], 0.66, 0.88)
