"""The parity certificate -> one HTML page that a person reads in a minute: the verdict, the numbers beside their limits, the answers."""

from __future__ import annotations

from html import escape

from sysdesign.export.certificate import Certificate, Compared, PromptCheck
from sysdesign.export.presence import Presence

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#1a1d21}
table{border-collapse:collapse;width:100%;margin:1rem 0 2rem}td,th{border-bottom:1px solid #d8dce1;padding:.4rem .6rem;text-align:left;
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.ok{color:#116329}.no{color:#a40e26;font-weight:600}
h1 span{padding:.1em .5em;border-radius:.3em;background:#dafbe1}h1 span.no{background:#ffebe9}code{font-size:13px;white-space:pre-wrap}
@media (prefers-color-scheme:dark){body{background:#15181c;color:#dfe3e8}td,th{border-color:#343a41}.ok{color:#56d364}.no{color:#ff7b72}
h1 span{background:#12331c}h1 span.no{background:#40161a}}
"""


def certificate_page(certificate: Certificate) -> str:
    """A whole page without scripts or links."""
    verdict = '<span class="ok">passed</span>' if certificate.passed else '<span class="no">failed</span>'
    comparisons = "".join(_comparison(c) for c in certificate.comparisons)
    prompts = "".join(_prompt(p) for p in certificate.prompts)
    shares = "".join(_share(quant, found) for quant, found in certificate.adapter.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Parity certificate</title><style>{_STYLE}</style>'
        f"<h1>Parity certificate: {verdict}</h1><p>Shipped: <b>{escape(certificate.ship)}</b>. Each row puts two ways to run the model "
        "side by side on the same prompts and tokens. Agreement counts greedy tokens that both choose; differences: log-probabilities.</p>"
        "<table><tr><th>compared<th class=n>tokens<th class=n>agreement<th class=n>largest difference"
        "<th class=n>mean divergence (nats)<th></tr>"
        f"{comparisons}</table><h2>The adapter in each file</h2><p>Share of the adapter's update that the file's weights hold: 1 when it "
        "was merged, 0 when it was not.</p><table><tr><th>file<th class=n>share<th class=n>standard error<th>tensors without it</tr>"
        f"{shares}</table>"
        "<h2>Prompts</h2>"
        f"<table><tr><th>row<th>prompt and token ids<th>picture tokens<th>greedy answers</tr>{prompts}</table></html>\n"
    )


def _comparison(compared: Compared) -> str:
    d, limits = compared.distance, compared.limits
    share = d.agree / d.tokens if d.tokens else 1.0
    cells = (
        f'<td class="n">{share:.3f}{_limit(limits, "agreement", "≥")}<td class="n">{d.largest:.2g}{_limit(limits, "largest", "≤")}'
        f'<td class="n">{d.kl:.2g}{_limit(limits, "kl", "≤")}'
    )
    return f'<tr><td>{escape(compared.what)}<td class="n">{d.tokens}{cells}<td>{_mark(compared.passed)}</tr>'


def _share(quant: str, found: Presence) -> str:
    share = "the adapter changes nothing" if found.share is None else f"{found.share:.3f}"
    absent = escape(", ".join(found.absent)) or "none"
    return f'<tr><td>{escape(quant)}<td class="n">{share}<td class="n">{found.noise:.2g}<td>{absent}</tr>'


def _limit(limits: dict[str, float], name: str, sign: str) -> str:
    return f"<br><small>{sign} {limits[name]:g}</small>" if name in limits else "<br><small>no limit</small>"


def _prompt(check: PromptCheck) -> str:
    same = _mark(check.same_prompt and check.same_tokens, "equal", "differ")
    images = (
        f"{check.image_tokens} of {check.expected_image_tokens} {_mark(check.image_tokens == check.expected_image_tokens)}"
        if check.pictures
        else "-"
    )
    answers = "<br>".join(f"<b>{escape(quant)}</b> <code>{escape(text)}</code>" for quant, text in check.answers.items())
    return f"<tr><td>{escape(check.row)}<td>{same}<td>{images}<td>{answers}</tr>"


def _mark(good: bool, yes: str = "✓", no: str = "✗") -> str:
    return f'<span class="{"ok" if good else "no"}">{yes if good else no}</span>'
