"""The look of a page of `tinyzo report`: light and dark, on a phone and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1c2024; --soft: #5b6470; --line: #d9dde3; --mark: #fff3c9;
  --good: #0b6b3a; --bad: #b3261e;
  --c0: #1f5fbf; --c1: #c2470a; --c2: #0b7a6c; --c3: #7437c4; --c4: #8a6400; --c5: #b8175f;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --ink: #e6e9ec; --soft: #9aa4b0; --line: #343b43; --mark: #443a12;
    --good: #5fd39a; --bad: #ff8a80;
    --c0: #7db0ff; --c1: #ff9d5c; --c2: #3fd0bd; --c3: #c09bff; --c4: #e3bd3d; --c5: #ff86b7;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem; }
p, ul { margin: 0.5rem 0; max-width: 48rem; }
.soft, figcaption > span, .foot { color: var(--soft); }
.problems { border-left: 4px solid var(--bad); padding: 0.25rem 0 0.25rem 1.75rem; }
.charts {
  margin-top: 1rem;
  display: grid; gap: 1.25rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
}
figure {
  margin: 0; max-width: 36rem; break-inside: avoid;
  display: flex; flex-direction: column; justify-content: space-between;
}
figcaption { font-size: 0.875rem; line-height: 1.35; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; }
.legend .entry { color: var(--ink); }
figure > svg { display: block; width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .name { fill: var(--ink); }
.grid { stroke: var(--line); }
.axis { stroke: var(--soft); }
.line, .faint { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; }
.faint { stroke-width: 1; opacity: 0.3; }
circle { fill: var(--c); }
.key { width: 22px; height: 8px; vertical-align: middle; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); }
.c3 { --c: var(--c3); } .c4 { --c: var(--c4); } .c5 { --c: var(--c5); }
.r1 .line { stroke-dasharray: 7 3; } .r2 .line { stroke-dasharray: 2 3; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9375rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: 0.875rem; }
th, td {
  text-align: left; vertical-align: top; padding: 0.25rem 1rem 0.25rem 0;
  border-bottom: 1px solid var(--line); min-width: 4rem;
}
thead th { border-bottom: 2px solid var(--line); }
tbody th { font-weight: normal; color: var(--soft); }
.differs > * { background: var(--mark); }
.differs > th { color: var(--ink); font-weight: 600; }
.right { color: var(--good); } .wrong { color: var(--bad); }
.answers td { min-width: 5rem; max-width: 18rem; overflow-wrap: break-word; }
.answers .text { min-width: 14rem; max-width: 28rem; }
pre {
  white-space: pre-wrap; margin: 0.25rem 0; padding: 0.5rem 0.75rem; font-size: 0.875rem;
  border: 1px solid var(--line); border-radius: 4px;
}
.foot { margin-top: 2.5rem; font-size: 0.875rem; }
@media (max-width: 40rem) {
  .answers, .answers caption, .answers tbody, .answers tr, .answers td { display: block; }
  .answers thead { display: none; }
  .answers td { border: 0; padding: 0; max-width: none; }
  .answers td[data-name]::before { content: attr(data-name) " "; color: var(--soft); }
  .answers tr { border-bottom: 1px solid var(--line); padding: 0.4rem 0; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .wide { overflow: visible; }
  .charts { grid-template-columns: 1fr 1fr; }
  tr, pre { break-inside: avoid; }
  h2, h3, caption, thead { break-after: avoid; }
}
"""
