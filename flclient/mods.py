"""The toolkit's Flower mods: what times a ClientApp, and what delays its update. The app is not edited.

A mod is `(message, context, call_next) -> message` (flwr.clientapp). These are made anew for each message, so they hold
no state: `Place` says whose message it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flcommon import flower
from flcommon.delay import Delay, Draw, draw_s
from flcommon.eventlog import EventLog, now
from flcommon.events import ComputeEnded, ComputeStarted, Delayed, Place, is_training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flwr.app import Context, Message

    ClientCall = Callable[[Message, Context], Message]
    Mod = Callable[[Message, Context, ClientCall], Message]


def timing_mod(place: Place, log: EventLog) -> Mod:
    """Return a mod that logs when the app is called and when it returns, and the CPU time in between."""

    def mod(message: Message, context: Context, call_next: ClientCall) -> Message:
        cpu_before = time.process_time()
        log.write(ComputeStarted(**place))
        try:
            return call_next(message, context)
        finally:
            ended = now()
            log.write(ComputeEnded(**place, cpu_s=time.process_time() - cpu_before), ended)

    return mod


def delay_mod(place: Place, delay: Delay | None, who: Draw, log: EventLog, waited: set[int]) -> Mod:
    """Return a mod that waits for the drawn delay after training, before the update is returned.

    Only training is delayed: an evaluation uploads no update. A client waits once a round, as the model of the delays
    has it: at the first `train` message, if an app sends several. Of the four that Flower's secure aggregation sends,
    the one that asks for training counts. `waited` are the rounds of this trial in which that was; the mod adds to it.
    """

    def mod(message: Message, context: Context, call_next: ClientCall) -> Message:
        trains = is_training(place["kind"]) and not flower.is_key_exchange(message)  # before the app empties it
        reply = call_next(message, context)
        if delay is None or not trains or place["round"] in waited:
            return reply
        waited.add(place["round"])
        requested_s = draw_s(delay, who)
        started = now()
        if requested_s > 0:
            time.sleep(requested_s)
        ended = now()
        log.write(Delayed(**place, requested_s=requested_s, measured_s=started.until_s(ended)), ended)
        return reply

    return mod


def with_mods(app: ClientCall, mods: Sequence[Mod]) -> ClientCall:
    """Return the app with mods around it, the first one outermost."""
    call = app
    for mod in reversed(mods):
        call = _around(mod, call)
    return call


def _around(mod: Mod, inner: ClientCall) -> ClientCall:
    return lambda message, context: mod(message, context, inner)
