"""The page's colours, for both schemes, and its style sheet.

Series have eight colours that keep apart for colour-blind readers (Okabe and Ito's, darkened or lightened until each
has a contrast of 3 to the page's ground), and dashes where there are more.
"""

LIGHT = {
    "ground": "#ffffff", "panel": "#f6f7f9", "text": "#1b1f24", "muted": "#57606a", "line": "#d5dae0",
    "accent": "#0b62b8", "good": "#0a6b4f", "warn": "#8a4b00",
}  # fmt: skip
DARK = {
    "ground": "#12161b", "panel": "#1b2127", "text": "#e8ecf1", "muted": "#a3adb8", "line": "#333c46",
    "accent": "#6cb6ff", "good": "#57d3a5", "warn": "#f0b357",
}  # fmt: skip
LIGHT_SERIES = ("#0067b0", "#c44601", "#00805f", "#a3417f", "#7a6200", "#3a7ca5", "#5c4fb0", "#5d6770")
DARK_SERIES = ("#5fb0f5", "#ff8c42", "#3fcfa0", "#ee9fcb", "#e0c341", "#8fd3f4", "#b3a6ff", "#b4bec9")
DASHES = ("", "6 3", "2 3")
"""The first eight series are whole lines, the next dashed, then dotted."""


def style_sheet() -> str:
    """Returns the style sheet of a page."""
    light, dark = _variables(LIGHT, LIGHT_SERIES), _variables(DARK, DARK_SERIES)
    series = "".join(
        f".s{i} {{ stroke: var(--s{i}); }} .f{i} {{ fill: var(--s{i}); }} .k{i} {{ border-color: var(--s{i}); }}\n"
        for i in range(len(LIGHT_SERIES))
    )
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"@media print {{ :root {{ color-scheme: light; {light} }} }}\n{_RULES}{series}"
    )


def _variables(colours: dict[str, str], series: tuple[str, ...]) -> str:
    named = colours | {f"s{i}": colour for i, colour in enumerate(series)}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())


_RULES = """\
*, *::before, *::after { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header, footer { max-width: 1320px; margin: 0 auto; padding: 0 clamp(14px, 3vw, 36px); }
header { padding-top: 30px; }
h1 { font-size: clamp(22px, 4vw, 30px); line-height: 1.2; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 4px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 6px; }
p { margin: 6px 0; max-width: 78ch; overflow-wrap: anywhere; }
a { color: var(--accent); text-underline-offset: 2px; }
a:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.lead, .note, figcaption .note { color: var(--muted); }
.note { font-size: 13.5px; }
.badge { display: inline-block; border: 1px solid currentColor; border-radius: 99px; padding: 1px 10px; font-size: 13px;
  font-weight: 600; white-space: nowrap; }
.good { color: var(--good); } .warn { color: var(--warn); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 0; font-size: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(146px, 1fr)); gap: 10px;
  margin: 22px 0 16px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 10px; padding: 11px 14px;
  min-width: 0; }
.card .what { color: var(--muted); font-size: 13px; }
.card .figure { font-size: 23px; font-weight: 620; letter-spacing: -.01em; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.card .beside { color: var(--muted); font-size: 12.5px; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 380px), 1fr)); gap: 22px 26px;
  margin-top: 14px; }
figure { margin: 0; min-width: 0; max-width: 560px; break-inside: avoid; }
figcaption { font-weight: 600; font-size: 14.5px; }
figcaption .note { display: block; font-weight: 400; }
figure svg { display: block; width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: 1px 14px; list-style: none; margin: 3px 0 0; padding: 0;
  font-size: 13px; font-weight: 400; color: var(--muted); overflow-wrap: anywhere; }
.legend li { display: flex; align-items: baseline; gap: 6px; min-width: 0; }
.legend.shared { position: sticky; top: 0; z-index: 1; background: var(--ground); padding: 6px 0;
  border-bottom: 1px solid var(--line); max-height: 30vh; overflow-y: auto; }
.key { flex: none; width: 18px; height: 0; border-top: 2.5px solid; position: relative; top: -4px; }
.key.dashed { border-top-style: dashed; } .key.dotted { border-top-style: dotted; }
.key.dot, .key.ring { width: 8px; height: 8px; border-width: 4px; border-style: solid; border-radius: 50%; top: 0; }
.key.ring { border-width: 1.5px; }
.key.box { height: 10px; border-width: 0 0 0 14px; border-style: solid; width: 14px; top: 0; opacity: .75; }
svg text { fill: var(--muted); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
svg .strong { fill: var(--text); font-weight: 600; }
svg .halo { paint-order: stroke; stroke: var(--ground); stroke-width: 4px; stroke-linejoin: round; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg .base { stroke: var(--muted); stroke-width: 1; }
svg .chance { stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 4 4; fill: none; }
svg .mark { stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 3 3; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .band { stroke: none; opacity: .22; } svg .bar { stroke: none; opacity: .62; }
svg .hollow { fill: none; stroke-width: 1.5; }
svg .ring { stroke: var(--ground); stroke-width: 1.5; }
.scroll { overflow-x: auto; margin: 10px 0; max-width: 100%; /* shadows at the sides that there is more on */
  background: linear-gradient(to right, var(--ground) 30%, transparent) left / 40px 100% local no-repeat,
    linear-gradient(to left, var(--ground) 30%, transparent) right / 40px 100% local no-repeat,
    linear-gradient(to right, var(--line), transparent) left / 12px 100% scroll no-repeat,
    linear-gradient(to left, var(--line), transparent) right / 12px 100% scroll no-repeat; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); font-size: 13.5px; padding: 2px 0 4px; }
th, td { padding: 5px 14px 5px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--muted); font-size: 13px; vertical-align: bottom; }
th.l, td.l { text-align: left; }
td.wrap { white-space: normal; overflow-wrap: anywhere; min-width: 150px; max-width: 640px; }
tbody th { color: var(--text); font-size: 14px; font-weight: 500; text-align: left; vertical-align: top; }
td.best { font-weight: 700; color: var(--good); } tr.quiet td, tr.quiet th { color: var(--muted); font-weight: 400; }
td .bar { display: inline-block; height: 9px; border-radius: 2px; background: var(--accent); opacity: .7; }
code, pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px;
  overflow-x: auto; }
ul.notes { margin: 12px 0; padding: 10px 16px 10px 32px; background: var(--panel); border-left: 4px solid var(--warn);
  border-radius: 4px; font-size: 14px; } ul.notes li { overflow-wrap: anywhere; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); }
footer { margin-top: 50px; padding-bottom: 34px; color: var(--muted); font-size: 13px; }
footer p { border-top: 1px solid var(--line); padding-top: 12px; max-width: none; }
@media (max-width: 600px) { tbody th { white-space: normal; overflow-wrap: anywhere; min-width: 130px;
  max-width: 42vw; } }
@media print { body { font-size: 11px; } nav { display: none; } h2 { break-after: avoid; margin-top: 22px; }
  .charts { grid-template-columns: 1fr 1fr; } .card, tr { break-inside: avoid; }
  .scroll, pre { overflow: visible; white-space: pre-wrap; } .legend.shared { position: static; max-height: none; } }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
"""
