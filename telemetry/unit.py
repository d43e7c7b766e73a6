"""Units as text: SI and what the field uses beside it, as products and quotients such as umol/m2/s or kWh/m2/d.

Units are compared as text everywhere (a device that sends `u` must send the configured one), so a new spelling of an old unit is a
mistake: "Celsius" beside "C" would make every rule that joins them refuse.
"""

import re
from typing import Final

# Taken with the prefixes below.
_PREFIXED: Final = "m g s A K mol Hz N Pa J W V VA var L bar eq lx lm Wh S Ohm rad B tex"
_PREFIXES: Final = ("", "n", "u", "m", "c", "d", "h", "k", "M", "G")
_PLAIN: Final = (
    "1 % C bool deg min h d a ppm ppb pH rpm count dB t ha mu kgf NTU mmHg head bird pig spindle end yarn frame bobbin rev step"
)
_OTHER_SPELLINGS: Final = {
    "celsius": "C", "degc": "C", "deg_c": "C", "℃": "C", "percent": "%", "pct": "%", "degree": "deg", "degrees": "deg", "°": "deg",
    "hour": "h", "hours": "h", "day": "d", "days": "d", "sec": "s", "second": "s", "seconds": "s", "minute": "min", "minutes": "min",
    "litre": "L", "liter": "L", "l": "L", "meter": "m", "metre": "m", "watt": "W", "kwh": "kWh", "kw": "kW", "lux": "lx",
    "µmol": "umol", "μmol": "umol", "boolean": "bool", "switch": "bool", "ph": "pH",
}  # fmt: skip
_KNOWN: Final = frozenset(_PLAIN.split()) | {prefix + unit for prefix in _PREFIXES for unit in _PREFIXED.split()}
_POWER: Final = re.compile(r"(.+?)-?[1-9]")


def unit_problem(text: str) -> str:
    """Why this is no unit that Fieldloom knows, with the spelling that was meant; "" when it is one. "" and "1" are plain numbers."""
    for part in re.split(r"[/*. ]", text.replace("°C", "C")) if text else ():
        power = _POWER.fullmatch(part)
        name = part if part in _KNOWN or power is None else power[1]
        if name not in _KNOWN:
            meant = _OTHER_SPELLINGS.get(name.casefold())
            return f"unit {text!r} is not known: " + (
                f"write {meant!r} for {name!r}" if meant else f"what is {name!r}? docs/glossary.md lists them"
            )
    return ""
