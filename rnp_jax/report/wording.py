"""Numbers as a reader wants them."""

from pydantic import JsonValue

from rnp_jax.report.schema import Known, Metrics, Proportion

UNKNOWN = "unknown"

METRICS = {
    "acc": ("ACC", "Clean test images classified correctly, all classes."),
    "acc_without_target": ("ACC without target", "The same without the images of the attack's target class."),
    "asr": ("ASR", "Triggered images of other classes that are classified as the attacker wants."),
    "ra": ("RA", "The same triggered images classified as their true class."),
}
DER = ("DER", "Defense effectiveness rating: 0.5 means no effect, 1 a backdoor removed at no cost in ACC.")


def percent(share: Proportion | None) -> str:
    """``83.55%``; two decimals where at least 1,000 images carry them."""
    if share is None:
        return UNKNOWN
    return f"{share.value:.{_decimals(share)}%}"


def interval(share: Proportion) -> str:
    """``81.86-85.11%``: the 95 % interval, with an en dash."""
    decimals = _decimals(share)
    return f"{100 * share.low:.{decimals}f}\N{EN DASH}{share.high:.{decimals}%}"


def change(before: Proportion | None, after: Proportion | None) -> str:
    """The difference in percentage points, with its sign."""
    if before is None or after is None:
        return UNKNOWN
    points = 100 * (after.value - before.value)
    return f"{points:+.{min(_decimals(before), _decimals(after))}f}".replace("-", "\N{MINUS SIGN}")


def _decimals(share: Proportion) -> int:
    return 2 if share.total >= 1000 else 1


def rating(metrics: Metrics) -> str:
    """The DER with three decimals."""
    return UNKNOWN if metrics.der is None else f"{metrics.der:.3f}"


def number(value: Known, none: str = UNKNOWN) -> str:
    """Up to four significant digits, thousands apart."""
    return none if value is None else f"{value:,.4g}"


def seconds(value: float) -> str:
    """``under 0.01 s``, ``0.04 s``, ``12.3 s``, ``4 min 05 s``, ``24 h 16 min``."""
    if 0 < value < 0.01:
        return "under 0.01 s"
    if value < 120:
        return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"
    minutes, rest = divmod(int(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def flatten(settings: JsonValue, prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as ``('unlearn.momentum', '0.9')`` rows; lists stay on one line."""
    if isinstance(settings, dict) and settings:
        return [row for key, value in settings.items() for row in flatten(value, f"{prefix}.{key}" if prefix else key)]
    return [(prefix, _scalar(settings))]


def _scalar(value: JsonValue) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return ", ".join(_scalar(item) for item in value) or "none"
    return "none" if value == {} else str(value)


def name_trigger(attack: str, mapping: str, target: int | None) -> str:
    """A known trigger in words: its attack, its mapping of labels, and the class that it leads to."""
    return f"{attack}, {mapping.replace('_', ' ')}, target {'all classes' if target is None else f'class {target}'}"
