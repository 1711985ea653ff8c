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
table{border-collapse:collapse;margin:.6rem 0}
td,th{border-bottom:1px solid var(--line);padding:.4rem 1.4rem .4rem 0;text-align:left;vertical-align:top}
th{font-weight:600;vertical-align:bottom}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.prompt{background:var(--card);border-radius:.5rem;padding:.7rem .9rem;margin:.8rem 0}
.prompt h3{font-size:1rem;margin:0;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:minmax(6rem,max-content) 1fr;gap:.25rem .9rem;margin:.5rem 0 0}
dt{font-weight:600}dd{margin:0;min-width:0}
code{font:13px/1.45 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
@media (max-width:700px){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}
table.stack,.stack tbody{display:block}.stack tr{display:block;border-bottom:1px solid var(--line);padding:.4rem 0}
.stack tr:first-child{display:none}
.stack td{display:flex;justify-content:flex-end;align-items:baseline;gap:.7rem;border:0;padding:.1rem 0;white-space:normal}
.stack td:first-child{font-weight:600;justify-content:start}
.stack td[data-is]::before{content:attr(data-is);color:var(--soft);margin-right:auto}.stack td br{display:none}}
"""


def certificate_page(certificate: Certificate) -> str:
    """A whole page without scripts or links."""
    verdict = '<span class="verdict ok">passed</span>' if certificate.passed else '<span class="verdict no">failed</span>'
    comparisons = "".join(_comparison(c) for c in certificate.comparisons)
    shares = "".join(_share(where, found, certificate.tolerance) for where, found in certificate.adapter.items())
    prompts = "".join(_prompt(p) for p in certificate.prompts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Parity certificate</title><style>{_STYLE}</style></head><body>"
        f"<h1>Parity certificate: {verdict}</h1><p>Shipped: <b>{escape(certificate.ship)}</b>, asked with {len(certificate.prompts)} "
        f"prompts, {sum(p.pictures > 0 for p in certificate.prompts)} of them with pictures.</p>{_broken(certificate)}"
        "<h2>Two ways to run the model, side by side</h2><p>The same prompts and tokens. Agreement counts greedy tokens that both choose, "
        "the end of an answer among them; differences are of log-probabilities.</p>"
        '<table class="stack"><tr><th>compared<th class="n">tokens<th class="n">agreement<th class="n">largest difference'
        f'<th class="n">mean divergence (nats)<th></tr>{comparisons}</table>'
        "<h2>The adapter in each file</h2><p>Share of the adapter's update that the file's weights hold: 1 when it was merged, 0 when it "
        f"was not. It may be off by {certificate.tolerance:g} and three standard errors.</p>"
        '<table class="stack"><tr><th>file<th class="n">share<th class="n">standard error<th>tensors without it<th></tr>'
        f"{shares}</table>{_scores(certificate.scores)}<h2>Prompts</h2>{prompts}</body></html>\n"
    )


def _broken(certificate: Certificate) -> str:
    """What a failed certificate failed on."""
    read = [p.row for p in certificate.prompts if not p.passed]
    found = [f"{len(read)} prompts were not read alike: {', '.join(read[:3])}"] if read else []
    found += [c.what for c in certificate.comparisons if not c.passed]
    found += [f"the adapter in {where}" for where, part in certificate.adapter.items() if not part.passes(certificate.tolerance)]
    found += [] if certificate.scores.passed else ["task scores"]
    return f'<p class="no">Broken:</p><ul>{"".join(f"<li>{escape(one)}" for one in found)}</ul>' if found else ""


def _comparison(compared: Compared) -> str:
    d, limits = compared.distance, compared.limits
    share = d.agree / d.tokens if d.tokens else 0.0
    cells = (
        f'<td class="n" data-is="agreement">{share:.3f}{_limit(limits, "agreement", "≥")}'
        f'<td class="n" data-is="largest difference">{d.largest:.2g}{_limit(limits, "largest", "≤")}'
        f'<td class="n" data-is="mean divergence">{d.kl:.2g}{_limit(limits, "kl", "≤")}'
    )
    what = f'<td>{escape(compared.what)}<td class="n" data-is="tokens">{d.tokens}'
    return f'<tr>{what}{cells}<td data-is="kept">{_mark(compared.passed)}</tr>'


def _share(where: str, found: Presence, tolerance: float) -> str:
    share = "nothing to hold" if found.share is None else f"{found.share:.3f}"
    more = f" and {len(found.absent) - 5} more" if len(found.absent) > 5 else ""
    absent = escape(", ".join(found.absent[:5])) + more or "none"
    return (
        f'<tr><td>{escape(where)}<td class="n" data-is="share">{share}<td class="n" data-is="standard error">{found.noise:.2g}'
        f'<td data-is="tensors without it">{absent}<td data-is="kept">{_mark(found.passes(tolerance))}</tr>'
    )


def _scores(scores: TaskScores) -> str:
    head = "<h2>Task scores</h2>"
    if not scores.questions:
        return f'{head}<p class="soft">No question among the prompts has a check that its answer could be scored by.</p>'
    rows = "".join(f'<tr><td>{_name(who)}<td class="n">{mean:.3f}</tr>' for who, mean in scores.mean.items())
    return (
        f"{head}<p>Mean over the {scores.questions} prompts that have a check, each with its own greedy answer, by the rules of the "
        f"evaluation. No file may lie more than {scores.largest_drop:g} below the adapter: {_mark(scores.passed)}</p>"
        f'<table><tr><th>contestant<th class="n">mean score</tr>{rows}</table>'
    )


def _limit(limits: dict[str, float], name: str, sign: str) -> str:
    return f"<br><small>{sign} {limits[name]:g}</small>" if name in limits else "<br><small>no limit</small>"


def _prompt(check: PromptCheck) -> str:
    read = f"prompt and token ids {_mark(check.same_prompt and check.same_tokens, 'equal', 'differ')}"
    if check.pictures:
        read += f", picture tokens {check.image_tokens} of {check.expected_image_tokens} "
        read += _mark(check.image_tokens == check.expected_image_tokens)
    alike: dict[Said, list[str]] = {}
    for who, said in check.answers.items():
        alike.setdefault(said, []).append(escape(who))
    answers = "".join(f"<dt>{', '.join(names)}<dd>{_said(said)}" for said, names in alike.items())
    return (
        f'<section class="prompt"><h3>{escape(check.question)}</h3><div class="soft">{escape(check.row)}: {read}</div>'
        f"<dl>{answers}</dl></section>"
    )


def _said(said: Said) -> str:
    about = ([] if said.ended else ["cut at the limit"]) + ([] if said.score is None else [f"score {said.score:.2f}"])
    return f"<code>{escape(said.text)}</code> <small>{', '.join(about)}</small>"


def _name(who: str) -> str:
    return f"{escape(who)} <small>{'transformers' if who in (ADAPTER, MERGED) else 'llama.cpp'}</small>"


def _mark(good: bool, yes: str = "✓", no: str = "✗") -> str:
    return f'<span class="{"ok" if good else "no"}">{yes if good else no}</span>'
