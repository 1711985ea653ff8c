"""The parity certificate -> one HTML page that a person reads in a minute: the verdict, the numbers beside their limits, the answers."""

from __future__ import annotations

from html import escape

from sysdesign.export.certificate import ADAPTER, MERGED, Certificate, Compared, PromptCheck, Said, TaskScores
from sysdesign.export.presence import Presence

_STYLE = """
:root{color-scheme:light dark;--text:#1a1d21;--soft:#57606a;--line:#d8dce1;--ground:#fff;--card:#f6f8fa;--ok:#116329;--no:#a40e26}
@media (prefers-color-scheme:dark){:root{--text:#dfe3e8;--soft:#9aa4af;--line:#343a41;--ground:#15181c;--card:#1d2126;
--ok:#56d364;--no:#ff7b72}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;max-width:68rem;margin:0 auto;padding:1.5rem 1rem 3rem;color:var(--text);background:var(--ground)}
h1{font-size:1.6rem;line-height:1.3;margin:0 0 .5rem}h2{font-size:1.15rem;margin:2.2rem 0 .3rem}p{margin:.3rem 0;max-width:46rem}
small,.soft{color:var(--soft)}small{font-size:.8rem;white-space:nowrap}.ok{color:var(--ok)}.no{color:var(--no);font-weight:600}
.verdict{border:1px solid currentColor;border-radius:.3em;padding:0 .45em;white-space:nowrap}
.wide{overflow-x:auto;margin:.6rem 0}table{border-collapse:collapse;width:100%}
td,th{border-bottom:1px solid var(--line);padding:.4rem .9rem .4rem 0;text-align:left;vertical-align:top}
th{font-weight:600;vertical-align:bottom}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.prompt{background:var(--card);border-radius:.5rem;padding:.7rem .9rem;margin:.8rem 0}
.prompt h3{font-size:1rem;margin:0;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem .9rem;margin:.5rem 0 0}dt{font-weight:600}dd{margin:0;min-width:0}
code{font:13px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
@media (max-width:600px){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}td,th{padding-right:.6rem}}
"""


def certificate_page(certificate: Certificate) -> str:
    """A whole page without scripts or links."""
    verdict = '<span class="verdict ok">passed</span>' if certificate.passed else '<span class="verdict no">failed</span>'
    comparisons = "".join(_comparison(c) for c in certificate.comparisons)
    shares = "".join(_share(where, found) for where, found in certificate.adapter.items())
    prompts = "".join(_prompt(p) for p in certificate.prompts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Parity certificate</title><style>{_STYLE}</style></head><body>"
        f"<h1>Parity certificate: {verdict}</h1><p>Shipped: <b>{escape(certificate.ship)}</b>, asked with {len(certificate.prompts)} "
        f"prompts, {sum(p.pictures > 0 for p in certificate.prompts)} of them with pictures.</p>"
        "<h2>Two ways to run the model, side by side</h2><p>The same prompts and tokens. Agreement counts greedy tokens that both choose, "
        "the end of an answer among them; differences are of log-probabilities.</p>"
        '<div class="wide"><table><tr><th>compared<th class="n">tokens<th class="n">agreement<th class="n">largest difference'
        f'<th class="n">mean divergence (nats)<th></tr>{comparisons}</table></div>'
        "<h2>The adapter in each file</h2><p>Share of the adapter's update that the file's weights hold: 1 when it was merged, 0 when it "
        'was not.</p><div class="wide"><table><tr><th>file<th class="n">share<th class="n">standard error<th>tensors without it</tr>'
        f"{shares}</table></div>{_scores(certificate.scores)}<h2>Prompts</h2>{prompts}</body></html>\n"
    )


def _comparison(compared: Compared) -> str:
    d, limits = compared.distance, compared.limits
    share = d.agree / d.tokens if d.tokens else 1.0
    cells = (
        f'<td class="n">{share:.3f}{_limit(limits, "agreement", "≥")}<td class="n">{d.largest:.2g}{_limit(limits, "largest", "≤")}'
        f'<td class="n">{d.kl:.2g}{_limit(limits, "kl", "≤")}'
    )
    return f'<tr><td>{escape(compared.what)}<td class="n">{d.tokens}{cells}<td>{_mark(compared.passed)}</tr>'


def _share(where: str, found: Presence) -> str:
    share = "nothing to hold" if found.share is None else f"{found.share:.3f}"
    absent = escape(", ".join(found.absent)) or "none"
    return f'<tr><td>{escape(where)}<td class="n">{share}<td class="n">{found.noise:.2g}<td>{absent}</tr>'


def _scores(scores: TaskScores) -> str:
    head = "<h2>Task scores</h2>"
    if not scores.questions:
        return f'{head}<p class="soft">No question among the prompts has a check that its answer could be scored by.</p>'
    rows = "".join(f'<tr><td>{_name(who)}<td class="n">{mean:.3f}</tr>' for who, mean in scores.mean.items())
    return (
        f"{head}<p>Mean over the {scores.questions} prompts that have a check, each with its own greedy answer, by the rules of the "
        f"evaluation. No file may lie more than {scores.largest_drop:g} below the adapter: {_mark(scores.passed)}</p>"
        f'<div class="wide"><table><tr><th>contestant<th class="n">mean score</tr>{rows}</table></div>'
    )


def _limit(limits: dict[str, float], name: str, sign: str) -> str:
    return f"<br><small>{sign} {limits[name]:g}</small>" if name in limits else "<br><small>no limit</small>"


def _prompt(check: PromptCheck) -> str:
    read = f"prompt and token ids {_mark(check.same_prompt and check.same_tokens, 'equal', 'differ')}"
    if check.pictures:
        read += f", picture tokens {check.image_tokens} of {check.expected_image_tokens} "
        read += _mark(check.image_tokens == check.expected_image_tokens)
    answers = "".join(f"<dt>{_name(who)}<dd>{_said(said)}" for who, said in check.answers.items())
    return f'<section class="prompt"><h3>{escape(check.row)}</h3><div class="soft">{read}</div><dl>{answers}</dl></section>'


def _said(said: Said) -> str:
    end = "" if said.ended else " <small>cut at the limit</small>"
    score = "" if said.score is None else f" <small>score {said.score:.2f}</small>"
    return f"<code>{escape(said.text)}</code>{end}{score}"


def _name(who: str) -> str:
    return f"{escape(who)} <small>{'transformers' if who in (ADAPTER, MERGED) else 'llama.cpp'}</small>"


def _mark(good: bool, yes: str = "✓", no: str = "✗") -> str:
    return f'<span class="{"ok" if good else "no"}">{yes if good else no}</span>'
