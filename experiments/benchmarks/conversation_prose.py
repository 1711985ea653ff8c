"""Answers as a language model would word them, free of the offline teacher's grammar: what a checker of names must not object to.

`{A}`, `{B}`, `{C}` stand for drawn names. Nothing here invents a component. `APART` was not looked at while the checks were made.
"""

from __future__ import annotations

LOOKED_AT = (
    "{A} is the tightest spot: it runs at roughly four fifths of what its replicas can absorb, while everything else still has plenty"
    " of headroom. If traffic keeps climbing, {A} saturates first and callers start to pile up in front of it.",
    "Start at the entrance and follow the solid arrows. {A} hands the request to {B}, and {B} in turn waits for {C}. Only the dashed "
    "arrow is fire-and-forget, so nobody is held up by it.",
    "Losing {B} hurts more than it seems. It has a single instance, and both {A} and {C} block until it answers, so users would see "
    "errors within seconds.",
    "Strictly speaking, percentiles cannot be summed. Still, the three figures give a safe ceiling: at least 97 % of all requests "
    "come back sooner, because at worst each hop is slow for a different one percent of them.",
    "The drawing does not tell. There is no figure for the hit ratio next to {A}, and guessing one would only pretend to know.",
    "Yes. {A} talks to {B} synchronously, which means its threads sit idle until the reply arrives. Under a slow {B} the pool drains "
    "quickly unless a timeout cuts in.",
    "Counting from left to right there are three queues; the one behind {A} is the only one whose consumers are outpaced at peak, so "
    "its backlog grows for as long as the rush lasts.",
    "Buy two more replicas of {C}. That lifts its ceiling above the expected peak with a bit of slack, and it is cheaper than "
    "enlarging {A}, which would not even help here.",
    "Every attempt that {A} repeats is multiplied further down: {B} repeats each of them again. During an outage of {C} that turns "
    "one click into a dozen calls. Jittered back-off and a retry budget keep the storm in check.",
    "Surprisingly, the cache barely matters for availability. When {A} is cold or gone, all reads fall through to {B}, and {B} is "
    "sized for about a third of them. It would topple.",
    "With three copies and a majority of two, one node may die and writes go on. Lose a second one and the survivors must refuse, "
    "lest the two sides drift apart.",
    "Read the frame around {A} and {B}: both live in the same zone. A power cut there takes them out together, however many replicas "
    "they have.",
    "No gateway stands between the public side and {C}. Anyone outside can knock on it directly, so authentication has to happen "
    "right there.",
    "Roughly speaking, work in flight equals arrival rate times time in the system. Plug in the peak and the mean, round up, and that"
    " is the smallest pool that does not throttle {A}.",
    "I would move the expensive hop off the critical path. Once {B} is fed asynchronously, the caller no longer notices its hiccups, "
    "and the mean drops by exactly the time {B} used to add.",
    "Careful with the wording: the arrow points from {B} to {A}, not the other way round. Hence {A} never initiates a conversation "
    "with {B}.",
    "Going by the labels, {A} costs the most per month, but per request {C} is pricier by far, since it handles only a trickle.",
    "Nothing in between buffers the burst. {A} passes it straight on, and {B} either scales within seconds or sheds load.",
    "Both claims hold. First, {C} is stateful, so adding machines alone does not spread a hot key. Second, the hot key alone exceeds "
    "what one shard tolerates.",
    "Had {A} been replicated, the answer would differ: then a crash costs capacity, not correctness. As drawn, it is a single point "
    "of failure.",
)
APART = (
    "Think of {A} as a funnel. Whatever enters upstream has to squeeze through it, and its neck is narrower than anything behind it; "
    "hence widening {B} or {C} buys nothing.",
    "Twice the load is fine for {A} but not for {B}: the latter already hovers near two thirds of its limit today. Expect it to choke"
    " long before the target is met.",
    "It depends on which reading you favour. If the dashed line counts as a dependency, {C} drags {A} down; taken literally, it does "
    "not, and users merely lose a feature for a while.",
    "Picture a rainy Monday: reads surge, {A} misses more than usual, and the surplus lands on {B}. Each percentage point of lost "
    "hits adds another slice of traffic there.",
    "Because {B} answers only after {C} has acknowledged, a sluggish {C} shows up twice, once as its own delay and once as queueing "
    "ahead of it. Hedged requests would soften the tail somewhat.",
    "Neither of them. {A} has spare room on paper, and {B} sits idle most nights. The culprit hides further downstream, where a lone "
    "instance serves everybody.",
    "Let me spell it out. A day has 86,400 seconds; multiply by the mean rate and the record size, then by the number of copies. "
    "Compression would shrink the total, yet none is mentioned.",
    "Deploying to a second zone halves the damage, provided the survivors can shoulder everything. Each of them must therefore stay "
    "below half of its capacity on an ordinary evening.",
    "Operators often overlook this: {A} keeps retrying after its own caller hung up. Shorten its timeout, or let the deadline travel "
    "along with the call.",
    "Far from it. The picture shows {C} with several replicas, yet they share a disk, at least according to the caption, so the "
    "redundancy is skin-deep.",
    "Sooner or later the backlog spills. Until then nobody notices anything except staleness, as {B} lags a little more with every "
    "passing minute.",
    "That shortcut is absent from the diagram. To get from {A} to {C} you must pass {B}, whether you like it or not.",
    "Halving the payload would do more good than doubling the machines, given that bandwidth rather than processing time is scarce on"
    " the stretch towards {C}.",
    "Put bluntly, five nines cannot be reached with this chain. Even flawless neighbours leave you with the weakest link, and {B} by "
    "itself already squanders the yearly allowance in an afternoon.",
    "A fair question, though the premise is off: {A} is not sharded. Skew between keys is thus irrelevant, and plain vertical growth "
    "is what remains.",
    "Once the burst subsides, workers nibble at the leftovers at the difference between what they can do and what still trickles in; "
    "that leaves about seven minutes until the queue is empty.",
    "Honestly, I would leave {B} alone. Its utilisation is modest, its latency is flat, and every additional copy enlarges the "
    "monthly bill without relieving {A}.",
    "Two writers, one reader: overlap is guaranteed as soon as the sum exceeds the number of copies. Here it equals it, so stale "
    "values may slip through.",
    "Mind the units. The label beside {C} is per replica, not for the whole group; forgetting that makes the verdict wrong by a "
    "factor of three.",
    "Cutting the arrow between {A} and {B} isolates the outage neatly. Orders keep flowing, receipts arrive late, and support has a "
    "quiet night.",
)
