"""Mutants that survive and need no test: by file, why, and the line as it reads then.

They are not run. An entry whose line is changed finds no mutant any more, and goes with it. Where
a statement is left out the entry is `without` and the statement.
"""

from __future__ import annotations

import re

ALWAYS = {
    "a parameter may be given by its place too": r"^.*\*,.*\n  \+ .*/,",
    "what is not equally long cannot be there; it is said louder": r"strict=False",
    "no list has fewer than none": r"\n  \+ .*check_(names|items)\(.*least= -1\)",
    "only mypy reads it": r"TypeVar\(|^if TYPE_CHECKING:",
    "with slots or without, it does the same": r"^@dataclass",
    "a text becomes the same number by either": r"\+ 0(?![.\d]).*\n  \+ .*- 0(?![.\d])",
}
"""Of any file: why, and a pattern of the line before and after."""

ONE_LINE = "where a claim stands behind a wait, or it listens, there is one line: first and last"
ONE_SLOT = "a group of several is one queue, as what waits on one line is in one slot"
INSTANT = "they differ at one instant of a clock that counts nanoseconds"
FITS = "if len(messages) <= calls.MOST and sum([len(m.message) for m in messages]) <= max_bytes:"
A_MS = "they differ in one millisecond"
LONG_AGO = "long ago is long ago"
ONE_RESULT = "of one call, or command, there is one result: first and last"
FOR_EVER = "it runs for ever, and the tests with it"
NO_END = "any of them is without end"
STDIN = "descriptor 0 is standard input"
SET_BEFORE = "it is set before it is read"
FOUND = (
    'is_sound = false, take = 0, left = 0, size = false, ready = KEYS[12], step = "1", '
    "deadline = 0, largest = 0,"
)

EXPLAINED: dict[str, dict[str, tuple[str, ...]]] = {
    "lua/claim.lua": {
        SET_BEFORE: (
            *(
                FOUND.replace(f"{name} = 0", f"{name} = {value}")
                for name in ("left", "deadline", "largest")
                for value in ("1", "(-1)")
            ),
            "has_token = true,",
        ),
        "of less than no message there is nothing to take either": (
            FOUND.replace("take = 0", "take = (-1)"),
        ),
        "one that is popped by a count is the same one": (
            'local some = take == 0 and { redis.call("RPOP", ready) }',
        ),
        "four of four": (
            'or redis.call("RPOP", ready, n == 0 and take >= TASTE and TASTE or take - n)',
        ),
        "a text begins at 1; a fourth byte is read and not used": (
            "local brace, quote, first = string.byte(body, 0, 3)",
            "local brace, quote, first = string.byte(body, 1, 4)",
        ),
        "two acks go behind the leases as one does, at some cost": ("if acks > 2 then",),
        "one needs no digits": tuple(
            f'local digits = take {more} and {{ [0] = "0", "1", "2", "3", "4", "5", "6", "7", '
            '"8", "9" }'
            for more in (">= 1", "> 0")
        ),
        "the first is named so already": ("for i = 1, take do",),
        "behind the last name there is none, and no message is one": (
            "for i = 1, 3 * take, 2 do",
            "for i = 1, 2 * take, 1 do",
        ),
        "a millisecond after 1970": ("if timer_at and timer_at > 1 then",),
        "as many as are wanted are there: it is either number": tuple(
            f"local many = left {more} and ARGV[3] or take -- a number costs much to write"
            for more in ("> 0", ">= 1")
        ),
    },
    "lua/lib/plain.lua": {
        SET_BEFORE: tuple(f"local others, in_unacked, there = 0, nil, {n}" for n in ("(-1)", 1)),
        "keys that are named and not used": (
            "local unacked, records, delayed, _, _, tokens, meta = unpack(KEYS, 1, 8)",
        ),
        "of no message there is nothing to take either": (
            (
                'this.is_sound = attempt == "0" and count + 0 == acks and acks <= 1000 and '
                "#claim_id <= 96 and limit >= 0"
            ),
        ),
        "where nothing is there, nothing is asked of what is due": (
            (
                "this.there, this.due = there, there > 0 and "
                'redis.call("ZCOUNT", delayed, "-inf", now .. ".5") or (-1)'
            ),
        ),
        "as many as are wanted are there: it is either number": tuple(
            f"this.take = others > 0 and 0 or left {less} and found or limit"
            for less in ("<= 0", "< 1")
        ),
        "no receipt begins with a space, or is a number": (
            (
                'if not string.find(ARGV[#ARGV], " ", 2, true) and '
                'redis.call("HDEL", records, unpack(ARGV, 12)) == acks then'
            ),
            (
                'if not string.find(ARGV[#ARGV], " ", 1, true) and '
                'redis.call("HDEL", records, unpack(ARGV, 11)) == acks then'
            ),
        ),
        "a space as a pattern is a space": (
            (
                'if not string.find(ARGV[#ARGV], " ", 1, false) and '
                'redis.call("HDEL", records, unpack(ARGV, 12)) == acks then'
            ),
        ),
    },
    "lua/lib/apart.lua": {
        A_MS: (
            *(
                f"local PATIENCE = {ms} -- ms; a consumer that waits has looked once by then, so "
                "there is none that holds nothing"
                for ms in (1199, 1201)
            ),
            (
                'and (tonumber(redis.call("HGET", KEYS[this.at + 7], "drain_until")) or 0) < '
                "call.now then"
            ),
        ),
        LONG_AGO: (
            *(
                'and (tonumber(redis.call("HGET", KEYS[this.at + 7], "drain_until")) or '
                f"{ms}) <= call.now then"
                for ms in ("1", "(-1)")
            ),
            *(f'delivering.change(this, "quiet", {ms})' for ms in ("1", "(-1)")),
        ),
        "no consumer says less, and a quarter of it is none": tuple(
            f'return tonumber(redis.call("HGET", KEYS[this.at + 7], "drain_ms")) or {ms}'
            for ms in ("1", "(-1)")
        ),
        "the record of what was held is gone, and is looked for once": (
            (
                "while not name or number >= call.aside and "
                'redis.call("HGET", KEYS[this.at + 2], name) do'
            ),
        ),
        FOR_EVER: (
            (
                "while  name or number > call.aside and "
                'redis.call("HGET", KEYS[this.at + 2], name) do'
            ),
            (
                "while not name or number > call.aside or "
                'redis.call("HGET", KEYS[this.at + 2], name) do'
            ),
            (
                "while not (not name or number > call.aside and "
                'redis.call("HGET", KEYS[this.at + 2], name)) do'
            ),
            'without name = string.format("%s.apart%03d", call.id, number)',
        ),
    },
    "lua/lib/claiming.lua": {
        "nought is made text either way, at some cost": tuple(
            f'local drain = call.drain {more} and string.format("%.0f", call.drain) or "0"'
            for more in (">= 0", "> (-1)")
        ),
        "no consumer is asked to claim nothing for 1 ms": (
            'local drain = call.drain > 1 and string.format("%.0f", call.drain) or "0"',
        ),
        "less than no ms is none": ("aside = 0, freed = false, drain = (-1), runs = {},",),
        "names that nobody has are looked for too, at some cost": (
            *(
                f"local names = receipts.named(call.id, call.attempt {more} and call.limit or "
                "math.min(call.limit, available))"
                for more in (">= 0", "> (-1)")
            ),
            "local available, is_held = 1, false",
            "if opened[q].in_unacked == (-1) or #names == 0 then",
        ),
        "what is due was taken: the next is a millisecond ahead at least": tuple(
            f'local wait = call.next_due and math.max({ms}, call.next_due - call.now) or "-1"'
            for ms in ("1", "(-1)")
        ),
        "a loop that ends before it begins": ("for q = 1, known.missing and (-1) or queues do",),
        "a run has four numbers": (
            (
                'local alike = #runs > 1 and record.text(#runs / 4) .. " " .. '
                'table.concat(runs, " ") or "0"'
            ),
        ),
        "behind the nought there is one blank more": tuple(
            f'local alike = #runs {more} and record.text(#runs / 4) .. " " .. '
            'table.concat(runs, " ") or "0"'
            for more in (">= 0", "> (-1)")
        ),
        "memory is freed once more, at some cost": (
            "this.acked, call.freed, this.ended_ids = #these - #lost, false, gone",
        ),
        "numbers are joined as they are, at some cost": (
            "for i = 2, #runs do",
            "without runs[i] = record.text(runs[i])",
        ),
    },
    "lua/lib/delivering.lua": {
        A_MS: ('or said.expires > 0 and said.expires < call.now and "expired"',),
        "what was never delivered was not spared": (
            (
                "local NOTHING = { deliveries = 0, spared = 1, expires = 0 } -- is said of most "
                "messages"
            ),
        ),
        "either says that it never expires": (
            (
                "local NOTHING = { deliveries = 0, spared = 0, expires = (-1) } -- is said of most "
                "messages"
            ),
        ),
        "just as many have room: it is either number": ("if free * this.largest >= space then",),
        "a run has four numbers, and before the first there is none": tuple(
            f"if n {more} and runs[n - 3] == this.index and runs[n - 2] == deliveries and "
            "runs[n - 1] == step then"
            for more in (">= 0", "> 1", "> (-1)")
        ),
        "steps are ten at most: each pair has a number of its own": (
            *(f"local known = deliveries * {n} + step" for n in (15, 17)),
            "local known = deliveries * 16 - step",
        ),
        "the server writes the number as it is, at some cost": (
            "call.deadline = call.limit > 2 and bands.score(step, call.now + call.lease)",
        ),
        "what is not tracked has no id, and is looked for at some cost": (
            (
                "local is_odd, is_dropped = may_be_tracked or byte(body, 3) == 120, false "
                '-- it may be tracked: "x-...'
            ),
            "if is_odd or this.cancels then",
        ),
        "of one it is the same, and of several nothing reads it": (
            "call.last_at, call.last_score = this.at, call.scores[2 / n - 1]",
        ),
        "memory is freed once more, at some cost": (
            "call.freed, this.largest = false, math.max(this.largest, largest)",
        ),
        "one by one they are handed out alike, at some cost": (
            "without at = M.hand(this, call, NOTHING, step, bodies, 1, n)",
        ),
        "spared as often as it was delivered it stays as it is": (
            "if said.spared >= said.deliveries then -- any program may have written it",
        ),
        FOR_EVER: (
            "if many == (-1) then",
            "while at < n and M.room(call) > 0 do",
            *(f"while at <= n and M.room(call) {more} do" for more in (">= 0", "> 1", "> (-1)")),
            "without at = M.hand(this, call, said, step, bodies, at, at)",
            (
                "for i = n, at, -0 do -- larger than any before: what found no room goes back to "
                "where it was"
            ),
        ),
    },
    "engine/atomq/receiver_base.py": {
        INSTANT: (
            "return time.monotonic() > self._at or flows.is_set(self._stop)",
            "is_fresh = clock() - self._consumer.asked <= self._keeper.lease_ms / 1000",
        ),
        SET_BEFORE: ("self.asked = -1.0", "self.asked = 1.0"),
        "less than no time is no time": (
            "left = None if deadline is None else max( -1.0, deadline - time.monotonic())",
        ),
        "all of one engine, which has one keeper": (
            "self._engine = queues[ -1].engine",
            "self._keeper: LeaseKeeper = queues[ -1].keeper",
            "if not queues or any(queue.engine is not queues[ -1].engine for queue in queues):",
        ),
        "of one queue it is the first and the last": (
            "Backlog(keeper, keys[ -1]) if len(keys) == 1 else Backlogs(keeper, keys)",
        ),
    },
    "engine/atomq/contrib/kombu/publishing.py": {
        "a message that is counted fills a batch of none, or of one": (
            "self.max_size = max( 0, max_size)",
        ),
    },
    "engine/atomq/contrib/kombu/qos.py": {
        "a message has one error: first and last": ("self.undecodable = self.errors[ -1][1]",),
    },
    "engine/atomq/workers.py": {
        FOR_EVER: (
            "for _ in range(self._most + 1):",
            "for _ in range(self._most - 0):",
            "while not (message := self._begun.get()) is not None:",
            "while (message := self._begun.get()) is None:",
        ),
    },
    "engine/atomq/backlog.py": {
        "messages of one queue have it in common": (
            "return [(held[ -1]._queue, held) for held in found.values()]",
        ),
        SET_BEFORE: (
            "self._sure = 1.0  # until when the leases of all of them last",
            "self._sure = -1.0  # until when the leases of all of them last",
        ),
        "nothing waits then": (
            "continue",
            "self._at = 1",
            "self._batch: tuple[float, deque[Any]] = ( 1.0, deque())",
            "self._batch: tuple[float, deque[Any]] = ( -1.0, deque())",
        ),
        FOR_EVER: ("self._at += 0",),
    },
    "engine/atomq/alone.py": {
        "it is over, and that is found out at some cost": (
            "self._drains_until = -1.0",
            "self._drains_until = 1.0",
            "self._drains_until = self._rests_until = -1.0",
            "self._drains_until = self._rests_until = 1.0",
            "if not self._leases and (self.message is None and not self._drains_until):",
        ),
        "what is alone is one: first and last": ("first = claim.deliveries[ -1]",),
    },
    "engine/atomq/gathering.py": {
        "a byte more or less": tuple(
            f"TOGETHER = {bytes_}  # bytes of messages in one call, which is small then: "
            "it shares a connection"
            for bytes_ in (12287, 12289)
        ),
    },
    "engine/atomq/gathering_threads.py": {
        "a byte more or less": (
            "if is_crowded and message.is_plain and len(message.message) < TOGETHER:",
            "if size >= TOGETHER:",
        ),
        "a moment; tests set it": tuple(
            f"PATIENCE = {seconds}  # seconds: what is under way for longer is in trouble, and "
            "nothing waits for it"
            for seconds in (1.05, -0.95)
        ),
        FOR_EVER: (
            "continue",
            "self._hand_over(others[ -1], self._under_way)",
            "others[ -1].call = None if put.call is None else put.call.again()",
        ),
        "it is read beside another call only": tuple(
            f"began = time.monotonic() if beside else {at}" for at in (1.0, -1.0)
        ),
    },
    "engine/atomq/conversation.py": {
        "one goes as several do, at some cost": ("if len(commands) == 0:",),
        "of one there is one: first and last": ("return commands[ -1]", "return replies[ -1]"),
        FOR_EVER: (
            "if answer is not None:",
            "if reply is not _NOTHING:",
            "if not type(reply) is not PushNotification:",
            ("while not (reply := parsed.popleft() if parsed else gets()) is not _NOTHING:"),
        ),
    },
    "engine/atomq/retrying.py": {
        SET_BEFORE: (
            "lost = True",
            "self._on_cluster = True  # as far as a node that lacks a script has said",
        ),
        "one more or less; tests read it": tuple(
            f"HEALS = {times}  # times that scripts are loaded for one call: they may be flushed "
            "without end"
            for times in (9, 11)
        ),
    },
    "engine/atomq/cluster.py": {
        "one more or less; tests read it": tuple(
            f"FEW = {many}  # lists of one node, at most, for which a consumer waits over a "
            "connection each"
            for many in (3, 5)
        ),
        "those that go together are of one node": ("self.map.check(some[ -1])",),
        "any negative number is no place in a list of replies": ("self._at.append(- 2)",),
        "shards.py reads it, whose tests have servers": tuple(
            f"NEAR = {seconds}  # seconds in which one has to do that; then another one is asked"
            for seconds in (1.4, -0.6)
        ),
    },
    "engine/atomq/aio.py": {
        "loops are equal if they are one": ("if asyncio.get_running_loop() != self._loop:",),
        "of a byte more it is the only one in its call": (
            "if gathering.under_way and message.is_plain and len(message.message) < TOGETHER:",
        ),
    },
    "engine/atomq/cli/nodes.py": {
        "of one server there is one: first and last": ("place = places(opened)[ -1]",),
    },
    "engine/atomq/leases.py": {
        "a second more or less; tests read it": (
            *(
                f"LEAVING = {seconds}  # seconds, at most, for the nodes of a cluster to take what "
                "waits, at the end"
                for seconds in (1.0, 3.0)
            ),
            *(
                f"IDLE = {seconds}  # seconds after which the thread ends when nothing is held"
                for seconds in (4.0, 6.0)
            ),
        ),
        "what is alone is one message": ("first = deliveries[ -1]",),
        "of its deliveries less were spared than there are": tuple(
            f"strictly = claim.alone and first.deliveries {more} and first.spared > 1"
            for more in ("> 2", "> 0", ">= 1")
        ),
        "what is settled together is of one queue": (
            "queue = leases[ -1].queue if leases else None",
            (
                "self._settling.settle_later(holders[ -1]._queue.name, receipts, rest.flow, "
                "holders=holders)"
            ),
        ),
        "a thousandth of the time more or less": tuple(
            line.format(ms)
            for line in (
                "if clock() - since > self.renew_ms / {}:",
                "most = max(LEAST, renewal_ms(options.lease_ms) / {})",
            )
            for ms in (999, 1001)
        ),
        INSTANT: ("elif left >= 0:", "if clock() - since >= self.renew_ms / 1000:"),
    },
    "engine/atomq/answer_aio.py": {
        SET_BEFORE: ("_asyncio_future_blocking = True  # a task asks for it, and for the loop",),
    },
    "engine/atomq/line_aio.py": {
        NO_END: (
            *(
                f"self._trusted = options.health_check_interval or {many}"
                for many in ("999999999.0", "1000000001.0")
            ),
            *(
                f"patience = self._patience + self._longer if self._patience else {many}"
                for many in ("999999999.0", "1000000001.0")
            ),
        ),
        STDIN: (
            "return number < 1 or not readable(number)  # memory:// has none",
            "return number <= 0 or not readable(number)  # memory:// has none",
        ),
        "a millisecond for a look": ("return bool(poller.poll( 1))",),
        FOR_EVER: ("return bool(poller.poll( -1))",),
    },
    "engine/atomq/waiting.py": {
        "one call is carried: first and last": ("slots, call = self._engine.slots, calls[ -1]",),
        "of a reply that is no error the map learns that the node answers, at some cost": (
            "if isinstance(reply, Exception) or self._engine.slots is not None:",
        ),
        ONE_LINE: (
            "yield from self._block(self.lines[ -1], lasts, ahead)",
            "engine, line = self._engine, self.lines[ -1]",
            "line = self.lines[ -1]",
            "token, claimed = self.lines[ -1].token, self._claimed",
        ),
        ONE_SLOT: ("slots.serves(line.wire.node, line.names[ -1]) for line in self.lines",),
        "it lasts as long as it is waited for, at least": ("lasts: float = -1.0,",),
        FOR_EVER: (
            "GLANCE = -0.6  # seconds between two looks at the map of a cluster",
            "for line, is_ended in []:",
        ),
        "a hundredth of a second that is doubled is never one": (
            (
                "is_coming = is_ended or pause >= SILENT  "
                "# else it may be that BLPOP is not read yet"
            ),
        ),
    },
    "engine/atomq/flows/publishing.py": {
        "what fits into one call the loop puts into one too": (
            FITS.replace("<= calls.MOST", "< calls.MOST"),
            FITS.replace("<= max_bytes", "< max_bytes"),
        ),
    },
    "engine/atomq/flows/claiming.py": {
        "a group of several is named by its first queue, and is one queue where there are others": (
            "self._turns[claims.names[ -1]] = True",
        ),
        "the queues of a group are of one server": (
            (
                "return [*((group.names[ -1], partial(give_back, group)) for group in groups), "
                "*self._unsaid]"
            ),
        ),
        "any queue may be the first of one that takes turns": (
            "self._first = random.randrange(len(self.queues)) if fair else 1",
            "self._first = random.randrange(len(self.queues)) if fair else -1",
            "self._first = (self._first - 1) % len(self.queues)",
            "self._first = (self._first - 1) % len(names)",
        ),
        LONG_AGO: (
            *(f"self.asked = {at}" for at in (1.0, -1.0)),
            *(
                f"self._aside = {{name: aside._replace(until= {at}) for name, aside in "
                "self._aside.items()}"
                for at in (1.0, -1.0)
            ),
        ),
        "what comes behind it is not claimed from either": ("break",),
        FOR_EVER: ("if self._aside or self._stays_aside(claims):", "if not stays:"),
        "to turn one of one is to do nothing": (
            "self._takes_turns = fair and not self._several and len(queues) > 0",
            "self._takes_turns = fair and not self._several and len(queues) >= 1",
            "if len(self._groups) == 0:",
        ),
        ONE_SLOT: (
            'return claims.names[ -1] if self._several else ""',
            "if self._aside.pop(claims.names[ -1], None) is not None:",
            "self._turns.pop(claims.names[ -1], None)",
            "self._turns[claims.names[ -1]] = None",
            "now, known = time.monotonic(), self._aside.get(claims.names[ -1])",
            "self._aside[claims.names[ -1]] = Aside(until, error, since)",
            "aside = self._aside.get(claims.names[ -1])",
        ),
        INSTANT: (
            "stays = aside is not None and time.monotonic() <= aside.until",
            "return {name for name, aside in self._aside.items() if now > aside.until}",
        ),
    },
    "engine/atomq/flows/pace.py": {
        "of one that is taken one at a time, whatever the pace": (
            "self.is_fixed = most == workers == 0",
        ),
    },
    "engine/atomq/flows/consumer.py": {
        "they differ at one instant of a clock": (
            "if not self._turns or now > self._seen + GLANCE:",
        ),
        LONG_AGO: tuple(f"self._names[name].looking = {at}" for at in (1.0, -1.0)),
        "a claim is sent ahead, or takes the short way, where there is one group only": (
            "return self._begin(self._groups[ -1], limit)",
            "claims, claim_id = self._groups[ -1], self._ids.next()",
            "self._note(self._groups[ -1], answer)",
            "self._unanswered[self._group(ahead[ 1])] = ahead",
            "self._unanswered[self._group(ahead[ -1])] = ahead",
            "return answer[ -1] if is_ahead and answer else None",
        ),
        ONE_SLOT: (
            "if self._aside and (aside := self._aside.get(claims.names[ -1])) is not None:",
            "if minded and claims.names[ -1] not in self._aside:",
        ),
        "the first time it claims from all, whether it has waited or not": (
            "self._has_waited = True  # since it was last asked for messages",
        ),
        "198 ms or 202 ms": (
            "for _ in range( 101):  # 0.2 s: others may be sending some of ours right now",
            "for _ in range( 99):  # 0.2 s: others may be sending some of ours right now",
        ),
        INSTANT: (
            "return may and seconds <= options.retry_budget",
            "if self._several and not found and (left is None or left >= 0):",
            "if until <= now <= end and not is_set(stop):",
            "is_first, is_last = self._seen == NEVER, left is not None and left < 0",
            "is_over = (time_is_up and end < look_at) or is_set(stop)",
            "if now > self._seen + GLANCE:",
            "if now > self._looks.next_at:",
            "retried = self._aside_until(now) if now <= self._looks.next_at else None",
            "if not now - self.options.wait_cap / 2 < since < now:",
            "if not now - self.options.wait_cap / 2 <= since <= now:",
            "if deadline is not None and time.monotonic() > deadline:",
            "time_is_up = answer is None or now > min(end, look_at)",
            "if now > aside.until:",
        ),
        FOR_EVER: ("if not not fired:", "if  fired:"),
    },
    "engine/atomq/node_threads.py": {
        "a second more or less": tuple(
            f"IDLE = {seconds}  # seconds after which a thread ends that has nothing to do"
            for seconds in (4.0, 6.0)
        ),
    },
    "engine/atomq/pool.py": {
        NO_END: (
            *(
                f"every = longest = min(within, self.engine.options.socket_timeout or {many})"
                for many in ("999999999.0", "1000000001.0")
            ),
            *(
                "if rested < (self.engine.options.health_check_interval or "
                f"{many}) and not hung_up(line):"
                for many in ("999999999.0", "1000000001.0")
            ),
            *(
                f"every, longest = LATE, patience + (self.engine.options.socket_timeout or {many})"
                for many in ("999999999.0", "1000000001.0")
            ),
        ),
        ONE_RESULT: ("return self.over(Bare((data,)))[ -1]",),
        "nothing idles then": ("continue",),
        FOR_EVER: (
            "self._places = _Places(most) if not most else None",
            "self._free -= 2",
            "self._free += 0",
            "while not self._free <= 0 and me not in self._threads:",
            "while self._free <= 0 or me not in self._threads:",
            "while self._free <= 1 and me not in self._threads:",
            "if left <= -1 or wire.readable(min(every, left)):",
            "if left <= 0 and wire.readable(min(every, left)):",
            "if left < 0 or wire.readable(min(every, left)):",
        ),
    },
    "engine/atomq/pool_aio.py": {
        "one more or less; tests read it": (
            *(
                f"UNDER_WAY = {many}  # calls over one connection; more of them take another"
                for many in (127, 129)
            ),
            *(
                f"OPENED_AT_ONCE = {many}  # connections; of thousands of tasks most find one "
                "that another is done with"
                for many in (63, 65)
            ),
        ),
        NO_END: tuple(
            f"self._most = engine.options.max_connections or {many}"
            for many in ("1 << 29", "1 << 31", "2 << 30")
        ),
        FOR_EVER: (
            "continue",
            "while len(self._opening) < min(wanted, OPENED_AT_ONCE) or self._count() < self._most:",
        ),
        "one answer is gathered as several are, at some cost": (
            "asked: Asked = future if len(data) == 0 else _Several(len(data), future)",
        ),
        "less than no time is none": (
            "await asyncio.sleep( -1)  # for the loop to close the sockets",
        ),
    },
    "engine/atomq/pool_base.py": {
        "a server is looked at, or asked, sooner or later: what is answered stays the same": (
            *(
                f"FRESH = {seconds}  # seconds for which a connection that was used is not looked "
                "at before it is used again"
                for seconds in (-0.5, 1.5)
            ),
            *(
                f"LATE = {seconds}  # seconds after which an answer is late enough to ask whether "
                "another node serves now"
                for seconds in (-0.5, 1.5)
            ),
        ),
        "no server has a version below 0": (
            'least = {"redis": (6, 2), "valkey": (7, 2)}.get(name, ( -1,))',
        ),
        NO_END: tuple(
            f"return max(options.socket_timeout or {one}, "
            f"options.socket_connect_timeout or {other})"
            for one, other in (
                ("999999999.0", "1e9"),
                ("1000000001.0", "1e9"),
                ("1e9", "999999999.0"),
                ("1e9", "1000000001.0"),
            )
        ),
    },
    "engine/atomq/commands_aio.py": {
        "of one command there is one reply: first and last": (
            "reply = (await self.over(load, looked_at=True))[ -1]",
        ),
        NO_END: tuple(
            f"within = min(within or {one}, handshake or {other}, self._longest)"
            for one, other in (
                ("999999999.0", "1e9"),
                ("1000000001.0", "1e9"),
                ("1e9", "999999999.0"),
                ("1e9", "1000000001.0"),
            )
        ),
        "a default of what each pool does itself": (
            "self, load: Load, *, looked_at: bool = True, within: float | None = None",
        ),
    },
    "engine/atomq/runner_aio.py": {
        "less than no further try is none": (
            "once = replace(self.retry, attempts= -1)",
            "retry = replace(retry, attempts= -1)",
        ),
        ONE_RESULT: (
            "return results[ -1]",
            "return (await self._drive(asking, standing, trouble))[ -1]",
            "result: T = results[ -1]",
        ),
        "either of them is enough": tuple(
            f"NOT_AGAIN = Retry(attempts={attempts}, budget={budget})"
            for attempts, budget in ((" -1", "0.0"), (" 1", "0.0"), ("0", " -1.0"), ("0", " 1.0"))
        ),
        INSTANT: (
            "if call.noted and (call.queue.noted <= time.monotonic() or call.noted == GONE):",
        ),
    },
    "engine/atomq/waiter.py": {
        ONE_LINE: ("line = lines[ -1]",),
        FOR_EVER: ("for purpose, reply in []:",),
        "any that has news may be heard first": ("line = readable[ -1]",),
        "one is heard as several are, at some cost": (
            "elif len(lines) == 0:",
            "elif len(lines) == 2:",
        ),
        "it lasts as long as it is waited for, at least": ("lasts: float = -1.0,",),
        "a second more or less; tests set it": tuple(
            f"LOST = {seconds}  # seconds: no call takes so long, so a thread was interrupted in "
            "the midst of taking it"
            for seconds in (4.0, 6.0)
        ),
    },
    "engine/atomq/waiter_aio.py": {
        "it lasts as long as it is waited for, at least": ("lasts: float = -1.0,",),
        "a piece more or less; tests read it": tuple(
            f"MOST_HEARD = {pieces}  # pieces that came and were not taken; then no more is read"
            for pieces in (63, 65)
        ),
    },
    "engine/atomq/wires.py": {
        "a byte more or less": tuple(
            f"READ_AT_ONCE = {bytes_}  # bytes" for bytes_ in (65535, 65537)
        ),
        "a thousandth of the time more or less": (
            "return lambda seconds: poller.poll(seconds * 999)",
            "return lambda seconds: poller.poll(seconds * 1001)",
            'return struct.pack("ll", int(seconds), max(1, int(seconds % 1 * 1000001.0)))',
        ),
        STDIN: ("if number > 0:", "if number >= 1:"),
    },
    "engine/atomq/contrib/kombu/nodes.py": {
        "it rings with one byte": tuple(f"self._bell.recv( {bytes_})" for bytes_ in (4095, 4097)),
        LONG_AGO: (
            "self._pause, self._not_before = PAUSE[0], -1.0",
            "def hang_up(self, pause: float = -1.0) -> None:",
        ),
        "it is set with the line, and read while there is one": tuple(
            f"self._heard = {at}  # when it was heard last, or was first said what is not "
            "answered yet"
            for at in (1.0, -1.0)
        ),
    },
    "engine/atomq/contrib/kombu/consuming.py": {
        "one more or less; tests read it": (
            *(f"MOST_CLAIMED = {many}  # messages in one claim" for many in (99, 101)),
            *(
                f"HEARD_MOST = {many}  # broadcasts remembered, to know those again that come twice"
                for many in (999, 1001)
            ),
            *(
                f"FAILURES = {many}  # deliveries after which what the consumer cannot take is dead"
                for many in (2, 4)
            ),
        ),
        "Kombu takes it, and makes nothing of it": tuple(
            f"self, prefetch_size: int = {size}, prefetch_count: int = 0, "
            f"apply_global: bool = {is_global}"
            for size, is_global in (("-1", False), ("1", False), ("0", True))
        ),
        "a thousandth of the time more or less": tuple(
            f"self.broker.keeper.put_off(delivery.receipt, (due_ms - now_ms) / {many})"
            for many in (999, 1001)
        ),
        "it is claimed for one: first and last": (
            "return found[ -1]",
            "self._end_turn(queue, found[ -1].queue)",
        ),
        "no room is none, whichever line says so": ("if free < 0:", "if free <= -1:"),
        LONG_AGO: tuple(f"self._pace, self._claimed_at = 1, {at}" for at in (1.0, -1.0)),
        "it is set with the limit, and read where there is one": tuple(
            f"self._enough = {room}  # room that is worth a call" for room in (1, -1)
        ),
    },
    "engine/atomq/calls/base.py": {
        "what does not pass the quick way passes the other": (
            *(
                f"if type(given) in _LISTS and {limits}:  # as nearly always"
                for limits in ("least < len(given) <= MOST", "least <= len(given) < MOST")
            ),
        ),
        "one more or less": ("@lru_cache(maxsize= 1023)", "@lru_cache(maxsize= 1025)"),
    },
    "engine/atomq/calls/settling.py": {
        "positions begin with 1": ("if position < 1:", "if position <= 0:"),
    },
    "engine/atomq/calls/registering.py": {
        "any two that are not alike, and not 0": tuple(
            f"IN_USE, GONE = {values}  # of what is noted in the register"
            for values in ("2, -1", "1, - 2")
        ),
    },
    "engine/atomq/calls/overview.py": {
        "the queues of one call share engine and slot: first and last": (
            "return Call(_OVERVIEW, queues[ -1], keys, args, parse, large=True)",
            "args = [len(queues[ -1].steps), spread, max_bytes]",
        ),
        "any number below 0 is none": (
            "numbers = [0] * (steps + 5) + [- 2, -1]",
            "numbers = [0] * (steps + 5) + [-1, - 2]",
        ),
    },
    "engine/atomq/calls/claiming.py": {
        "it is never there, of whichever queue": (
            "once = queues[ 1].nowhere",
            "once = queues[ -1].nowhere",
        ),
        "one more or less": tuple(f"@lru_cache(maxsize= {n})" for n in (255, 257)),
        "the queues of one claim share engine and slot: first and last": (
            "len(queues[ -1].steps),",
            "call = Call(_CLAIM, self.queues[ -1], self._keys, args, parse, _ATTEMPT_AT)",
            "self._keys: Sequence[str] = queues[ -1].claim",
            "keep = self.queues[ -1].keep",
            "first = queues[ -1]",
        ),
        "the keys of one are packed once, as a tuple, or each time": (
            "if len(queues) >= 1:",
            "if len(queues) > 0:",
        ),
        "of none there is none": ("if len(rest) >= end and not repeated:",),
        "what does not pass the quick way passes the other": tuple(
            f"if type(limit) is not int or not {bounds}:  # it raises; nearly never"
            for bounds in ("0 < limit <= MOST", "1 <= limit <= MOST", "0 <= limit < MOST")
        ),
        "one is in its place, and is looked at all the same": (
            "if len(receipts) >= 1:",
            "if len(receipts) > 0:",
        ),
        "a message that comes with its receipt is not alone in its text": (
            (
                'return (mores > 0, f"{attempt}.1", times, step) if attempt >= -1 and '
                "queue == many == 1 else None"
            ),
        ),
    },
    "engine/atomq/calls/publishing.py": {
        "what is tracked is looked for, and not found, at some cost": (
            "steps, some_named, some_tracked, some_known = 1, False, True, False",
        ),
        "no step is below 1": (
            "steps, some_named, some_tracked, some_known = 0, False, False, False",
        ),
        "of one step the names are the same": (
            "if steps > 0 or more:",
            "if steps >= 1 or more:",
        ),
        "it is asked again": ("if len(message) >= LARGEST:",),
        "one that is plain goes the quick way or the other, in the same words": (
            *(
                f"if len(messages) == 1 and {part} == _PLAIN:  # as nearly always"
                for part in ("messages[0][ 3:]", "messages[0][ 1:]", "messages[ -1][2:]")
            ),
            "message = messages[ -1].message",
        ),
        SET_BEFORE: tuple(
            f"total, group, settings_at, group_at, named = {values}"
            for values in (
                *("0, None, 1, 0, False", "0, None, -1, 0, False"),
                *("0, None, 0, 1, False", "0, None, 0, -1, False", "0, None, 0, 0, True"),
            )
        ),
    },
    "engine/atomq/contrib/kombu/shards.py": {
        "it may as well be a second more or less; tests read it": tuple(
            f"{name} = {seconds}  # {what}"
            for name, values, what in (
                (
                    "EVERY",
                    ("( 1.75, 0.9)", "( -0.25, 0.9)", "(0.75, 1.9)", "(0.75, -0.1)"),
                    "seconds between two times of what is done once a second",
                ),
                (
                    "LAPSE",
                    (1.2, -0.8),
                    "seconds for which a claim keeps room from others: its node may stand still",
                ),
                (
                    "LATE",
                    (1.3, -0.7),
                    "seconds of silence after which another node may serve what this one did",
                ),
                ("PATIENCE", (6.0, 4.0), "seconds of silence after which a line counts as dead"),
                ("DEAF", (2.0, 0.0), "the same for the line that listens: another node will do"),
                (
                    "ASK",
                    (1.5, -0.5),
                    "seconds between two times that the nodes are asked which of them serves what",
                ),
                (
                    "REST",
                    (1.2, -0.8),
                    "seconds before a claim is asked for again that no node answered",
                ),
            )
            for seconds in values
        ),
        "how long one of its waits is: there is another until it is time": tuple(
            f"if self.lines.readable({seconds}):" for seconds in (" -0.98", " 1.02")
        ),
        "a second more or less": tuple(
            f"OPENING, CLOSING = {seconds}  # seconds, at most, that are waited for nodes"
            for seconds in ("2.0, 1.0", "0.0, 1.0", "1.0, 2.0", "1.0, 0.0")
        ),
        "what is done once a second is due before": tuple(
            "soon = LAPSE if any(line.is_asked or not line.is_open for line in needed) else "
            f"{seconds}"
            for seconds in (2.0,)
        ),
        "any name will do for a thread": tuple(
            f'self.lines.threads.do((f"claim of {{name}}", {port}), f"ask {{id(call)}}", job)'
            for port in (-1, 1)
        ),
        SET_BEFORE: ("self._listens = True  # whether the subscriptions of the ear were answered",),
        LONG_AGO: (
            *(f"self._chores_at = {at}" for at in (1.0, -1.0)),
            *(f"self._chores_at = self._asks_at = self._ticks_at = {at}" for at in (1.0, -1.0)),
        ),
        INSTANT: (
            "due = [one for one in self._claimed.values() if now > one.claims.due_at]",
            "if time.monotonic() >= until:",
            "elif silent >= LATE or not line.is_open:",
            "if silent > PATIENCE or (silent >= LATE and not serves):",
            "if silent >= PATIENCE or (silent > LATE and not serves):",
            (
                "while not self._listens and (now := time.monotonic()) <= until and "
                "not self.lines.is_closed:"
            ),
            "at = min([now + soon, *(at for at in later if at >= now)])",
            "if silent > DEAF or (silent >= LATE and node in self._slots.doubted):",
            "if silent >= DEAF or (silent > LATE and node in self._slots.doubted):",
            "if silent >= LATE and line.place is not None:",
            "is_time = now > self._chores_at",
            "elif ear.is_open and not silent and now > self._chores_at:",
        ),
        FOR_EVER: (
            "continue",
            "for line, purpose, reply in []:",
            "while self.has_answer and not is_done or not self._buffer:",
            "while self.has_answer or not is_done and not self._buffer:",
            "while ear.line is not None or ear.line.has_answer and not self._listens:",
            "while ear.line is not None and ear.line.has_answer or not self._listens:",
            (
                "while not self._listens and (now := time.monotonic()) < until or "
                "not self.lines.is_closed:"
            ),
        ),
    },
    "engine/atomq/contrib/kombu/shard_queue.py": {
        "it is set with the line, and read where there is one": (
            "self._armed = True  # whether the server reports the next change, or is asked to",
            "self.is_asked = True",
            "self._looks = True",
            *(
                f"self._step: int | None = {at}  # of the list to pop from next; None: all are "
                "empty"
                for at in (1, -1)
            ),
        ),
        SET_BEFORE: ("self._look_at = 1.0", "self._look_at = -1.0"),
        "a look is read alike at each try": (
            "if isinstance(reply, Exception) or look.parse(reply, True):",
        ),
        LONG_AGO: ("self.look_at = 1.0", "self.look_at = -1.0"),
        INSTANT: (
            "return self.claims.has_found or now > self.look_at",
            "if now <= self.look_at or self._looks or line is None:",
            "and now > self.claims.rests_until",
            "if self._step is None and now > self._look_at:",
        ),
    },
    "engine/atomq/looking.py": {
        "the same, at some cost: it reckons anew though nothing changed": ("later = True",),
        INSTANT: ("return [queue for queue, at in self._at.items() if at < soon]",),
    },
    "engine/atomq/flight.py": {
        "a byte more or less; tests read it": tuple(
            f"SMALL = {size}  # bytes that may travel with what others send"
            for size in (16383, 16385)
        ),
    },
    "engine/atomq/reach_aio.py": {
        "the reply is read as it was heard": tuple(
            f"share.say_packed(data, {at}, asking=asking is not None)" for at in (-1, 1)
        ),
        "of none there is none": tuple(
            f"return members(carriers) if {least} len(carriers) <= FEW else ()"
            for least in ("0 <=", "-1 <")
        ),
        ONE_RESULT: (
            "reply = await pool.one(call, within) if carried is None else carried[ -1]",
            "place = self._known(calls[ -1].queue.slot) if len(calls) == 1 else None",
        ),
        "lists that are waited for together are of one node: any of them will do": (
            "idle = self.pool(await self._place(hash_slot(keys[ 1]))).give()",
            "idle = self.pool(await self._place(hash_slot(keys[ -1]))).give()",
            "return idle if isinstance(idle, AsyncWire) else await self.fresh(keys[ -1])",
        ),
    },
    "engine/atomq/shards_aio.py": {
        "there is one: first and last": ("await sends[ -1]",),
    },
    "engine/atomq/register.py": {
        "one more or less; tests read it": (
            *(f"KEPT_MS = {ms}" for ms in (59999, 60001)),
            *(
                f"{name} = {seconds}  # seconds {what}"
                for name, values, what in (
                    ("EVERY", (19.0, 21.0), "between two words of a process"),
                    (
                        "NOTED",
                        (3599.0, 3601.0),
                        "after which the name of a queue in use is written again",
                    ),
                    (
                        "REFUSED",
                        (599.0, 601.0),
                        "until what this user may not write is tried again",
                    ),
                    ("PATIENCE", (4.0, 6.0), "for which a server that is away is tried"),
                    ("CLOSING", (2.0,), "that the end of a process waits for the last word"),
                    (
                        "IDLE",
                        (4.0, 6.0),
                        "after which the thread looks whether anything needs it",
                    ),
                )
                for seconds in values
            ),
            *(
                f"AGAIN = {seconds}  # the same for the name of a queue that could not be written"
                for seconds in (59.0, 61.0)
            ),
            *(
                f"QUEUES, WORK = {many}  # how many of each an entry names"
                for many in ("99, 20", "101, 20", "100, 19", "100, 21")
            ),
            *(f"LARGEST = {size}  # bytes of an entry" for size in (59999, 60001)),
            (
                'self._thread = Background(self._turn, "atomq-register", "writes the register", '
                "log, 2.0)"
            ),
        ),
        "a thousandth of the time more or less": tuple(
            f"if idle < KEPT_MS / {many} or one.holder.working(0)[0]:" for many in (999, 1001)
        ),
        "how many it holds is read, and none that it names": tuple(
            f"if idle < KEPT_MS / 1000 or one.holder.working( {most})[0]:" for most in (-1, 1)
        ),
        LONG_AGO: tuple(
            line.format(at)
            for line in (
                "self.asked = {}  # when it began to ask for messages (monotonic)",
                "self._next = self._not_before = {}",
                "self._next = {}",
                "self._not_before = {}",
            )
            for at in (-1.0, 1.0)
        ),
        INSTANT: (
            "return not self._listed or any(queue.noted <= now for queue in consumer.queues)",
            "if self._thread.closing or time.monotonic() > self._next:",
        ),
        "all that come behind it are passed over as well": ("continue",),
        FOR_EVER: (
            "most //= 1",
            'name, number = f"{fork.process()}-{number}", number + 0',
            "while not name in taken:",
        ),
        "at first all nodes are new": ("self._heirs, self._looks = Heirs(), True",),
    },
    "engine/atomq/contrib/kombu/waker.py": {
        "there is one byte": ("self._heard.recv( 2)",),
    },
    "engine/atomq/contrib/kombu/declaring.py": {
        "a thousandth of the time more or less": tuple(
            f"KEEP_EVERY = LEAST_MS / {ms}  # seconds between two renewals of the bindings of "
            "queues that expire"
            for ms in (2999, 3001)
        ),
        "consuming.py says whether it is": (
            "def _new_queue(self, queue: str, auto_delete: bool = True, **kwargs: Any) -> None:",
        ),
        "Kombu takes it, and makes nothing of it": (
            "self, queue: str, if_unused: bool = True, if_empty: bool = False, **kwargs: Any",
        ),
        "of one there is one: first and last": (
            'return sum(self.broker.engine.command("LLEN", key) for key in parts[ -1].ready)',
        ),
    },
    "engine/atomq/contrib/kombu/intake.py": {
        LONG_AGO: (
            *(f"self.claims.chores_at = {at}" for at in (-1.0, 1.0)),
            *(f"self.claims.chores_at = {at}  # registered before the claim" for at in (-1.0, 1.0)),
            *(
                f"self._until = {at}  # when the server must have answered what is under way"
                for at in (-1.0, 1.0)
            ),
        ),
        "it may as well be a second more or less; tests read it": (
            *(
                f"PATIENCE = {seconds}  # seconds an answer may be late before the connection "
                "counts as dead"
                for seconds in (4.0, 6.0)
            ),
            (
                "QUICK = 2.0  # seconds a connection must have lasted to be replaced without "
                "a word to Celery"
            ),
        ),
        "a hundredth of a second more or less": tuple(
            f'self._send(WAIT, ("BRPOP", *keys, round(seconds, {digits})))' for digits in (2, 4)
        ),
        "what is called there looks at the time itself": ("or now >= self.unable_since - LINGER",),
        "doubled from 10 ms on it is 0.64 s or 1.28 s": (
            "is_asked = bool(self._broker.engine.command(*ask)) or pause > CAP[ 0]",
            "is_asked = bool(self._broker.engine.command(*ask)) or pause >= CAP[1]",
        ),
        INSTANT: (
            "while self.claims.under_way and time.monotonic() <= deadline:",
            "if now >= self._until and (claims.under_way or self.blocked):",
            "if claims.under_way or now <= claims.rests_until:",
            "is_time, is_due = now > claims.chores_at, now >= claims.due_at",
            "is_time, is_due = now >= claims.chores_at, now > claims.due_at",
            "may_look = not self.blocked and now > self.looker.times.next_at",
            "if now > self.unable_since + LINGER:",
            "quick = self.socket.lasted() <= QUICK",
            "or now > self.unable_since + LINGER",
        ),
    },
    "engine/atomq/contrib/kombu/node_bindings.py": {
        "it does nothing": tuple(f"def sweep(self, limit: int = {n}) -> int:" for n in (99, 101)),
        "of one binding there is one trouble: first and last": ("raise trouble[ -1]",),
        "a second more; tests set it": (
            "PATIENCE = 2.0  # seconds that a declaration waits for the shard of its exchange",
        ),
    },
    "engine/atomq/contrib/kombu/claims.py": {
        SET_BEFORE: (
            "self._is_watched = True  # whether the keeper looks when that message falls due",
        ),
        "any of its queues will do": ("return self._broker.keys(self._left[ -1])",),
        LONG_AGO: (
            *(f"self.{name} = {at}" for name in ("chores_at", "rests_until") for at in (-1.0, 1.0)),
            *(
                f"self.rests_until, self.chores_at = time.monotonic() + REST, {at}"
                for at in (-1.0, 1.0)
            ),
        ),
        "it is set with the claim, and read while one is under way": (
            *(
                f"self._sent_at = {at}  # when the claim was sent for the first time"
                for at in (-1.0, 1.0)
            ),
            *(f"self._room = {room}  # for how many messages" for room in (-1, 1)),
        ),
        INSTANT: ("return self._room if clock() - self._sent_at <= seconds else 0",),
    },
    "engine/atomq/contrib/kombu/watch.py": {
        LONG_AGO: (
            *(f"left = self._mine.get(queue, {at}) - now" for at in (-1.0, 1.0)),
            *(f"if self._mine.pop(queue, {at}) > now:" for at in (-1.0, 1.0)),
        ),
        SET_BEFORE: tuple(
            f"self._left_at = {at}  # when the keeper last left the watches to others"
            for at in (-1.0, 1.0)
        ),
        "a thousandth of the time more or less": (
            "if left > WATCH_MS / 999 - RENEW_AFTER:",
            "if left > WATCH_MS / 1001 - RENEW_AFTER:",
            "self._mine[queue] = self._stood[queue] + WATCH_MS / 1001",
            "if clock() - self._left_at < WATCH_MS / 1001:",
        ),
        INSTANT: (
            "if left >= WATCH_MS / 1000 - RENEW_AFTER:",
            "if self._mine.pop(queue, 0.0) >= now:",
        ),
    },
    "engine/atomq/merging.py": {
        "all partitions have the same steps": (
            '"ready_by_priority": {each: ready[each] for each in parts[ -1].ready_by_priority},',
        ),
        "all that they have is replaced": ("parts[ -1],", "states[ -1],"),
        "it is the same end": ("if is_cut and (end is None or ranks[-1] <= end):",),
        "no time comes before either": ("return message.step, message.time_ms or -1, at",),
    },
    "engine/atomq/probing.py": {
        ONE_RESULT: ("refused: dict[str, str] = results[ -1]",),
    },
    "engine/atomq/partitioned_base.py": {
        LONG_AGO: tuple(
            f"self._read_at = {at}  # when the record was read last (monotonic)"
            for at in (1.0, -1.0)
        ),
        "at first nothing is under way, so that it is chosen": (
            *(f"self._turn = {at}  # the partition of what names none" for at in (1, -1)),
            *(f"self._joined = {n}  # messages, since it is the turn of that one" for n in (1, -1)),
        ),
        "it may as well be one more or less; tests read it": (
            *(
                f"READ_AGAIN = {seconds}  # seconds after which a consumer looks whether there are "
                "more partitions"
                for seconds in (3.0, 5.0)
            ),
            *(
                f"TOGETHER = {many}  # messages: calls to one node share reads and writes"
                for many in (127, 129)
            ),
        ),
        INSTANT: ("if time.monotonic() - self._read_at >= READ_AGAIN:",),
        "what makes the message checks it too": (
            *(f'arguments.text("id", item.id, {most}, least=1)' for most in (255, 257)),
            'arguments.text("id", item.id, 256, least= 0)',
        ),
        "it is one of them": (
            *(
                f"at = next((i for i, part in enumerate(parts) if part is home), {at})"
                for at in (1, -1)
            ),
        ),
        "there is one: first and last": (
            "return (yield from self._publish(share.items, durability))[ -1]",
            "return Put(share.messages[ -1].id, share.part, new[0])",
            "return Put(share.messages[0].id, share.part, new[ -1])",
        ),
        "nothing is left to be put": ("continue",),
        "the order is any: it begins at any of them": (
            "new = [least + (at + first) % count / count for at in range(count)]",
        ),
    },
    "engine/atomq/contrib/kombu/spread.py": {
        INSTANT: ("return time.monotonic() - self._read_at >= READ_AGAIN",),
    },
    "engine/atomq/partitioned_aio.py": {
        "where one is put it is not read": tuple(
            f"share = Share(at, part, [item], ( {at},), [message], is_free)" for at in (1, -1)
        ),
        "there is one: first and last": tuple(
            f"return AsyncSent(*(await self.engine.run(self._publish([item], {how})))[ -1])"
            for how in ("None", "confirmed_by")
        ),
    },
    "engine/atomq/engine_base.py": {
        "it is looked at whether it changed": tuple(
            f"self.{name} = {n}" for name in ("moves", "era") for n in (1, -1)
        ),
        INSTANT: ("if not isinstance(keys, QueueKeys) or not (gone or keys.noted <= now):",),
        LONG_AGO: tuple(f"keys.noted = {at} if gone else now + AGAIN" for at in (1.0, -1.0)),
    },
    "engine/atomq/partition_record.py": {
        "their number is one of those that it had": (
            "if count >= self._count and self._count not in found.counts:",
        ),
    },
    "engine/atomq/partitions.py": {
        SET_BEFORE: ("at, following = - 0, 0", "at, following = - 2, 0"),
        "more than most is more than most": (
            "if slot in taken or load.get(shard, most + 2) > most:",
        ),
        "where there is no shard no name fits": tuple(
            f"fewest = min(load.values(), default= {n})" for n in (1, -1)
        ),
        FOR_EVER: (
            *(f"_MASK = {mask}" for mask in ("(1 << 64) + 1", "( 0 << 64) - 1", "(1 << 64) - 0")),
            *(
                f"following = int({product} / ((state >> 33) + 1))"
                for product in (
                    "(at + 0) * (1 << 31)",
                    "(at + 1) * ( 0 << 31)",
                    "(at + 1) / (1 << 31)",
                )
            ),
        ),
        "one more or less of them": (
            *(f"_TRIES = {n}  # names that are tried for one partition" for n in (9999, 10001)),
            *(
                f"COPIES, NUMBERS = (1, 2), {n}  # partitions whose copies of the record are "
                "sought, by these numbers"
                for n in (11, 13)
            ),
        ),
        "shards are compared with each other only": (
            "load[shard] += 2",
            *(f"load = Counter[Hashable](dict.fromkeys(shards, {n}))" for n in (1, -1)),
        ),
    },
    "engine/atomq/delivery.py": {
        "of one delivery none was spared, whatever stands there": tuple(
            f"found = _SPARED.match(self.envelope.raw) if self.deliveries {more} else None"
            for more in ("> 0", ">= 1")
        ),
    },
    "engine/atomq/settling.py": {
        FOR_EVER: (
            "if rest <= 0 and all(map(self._troubles.has, left)):",
            "rest = until + time.monotonic()",
        ),
    },
    "engine/atomq/lease.py": {
        LONG_AGO: tuple(f"self.begins = {at}  # not worked on before" for at in (1.0, -1.0)),
    },
    "engine/atomq/outage.py": {
        SET_BEFORE: ("self._last = 1.0", "self._last = -1.0"),
        LONG_AGO: ("self._ended = 1.0", "self._ended = -1.0"),
        "it is read while one asks": ("self.verifier = 1", "self.verifier = -1"),
        "it is not read": tuple(
            f"def away(self, _error: Exception, _seconds: float = {a}, _more: float = {b}) -> None:"
            for a, b in ((1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0))
        ),
    },
    "engine/atomq/outage_report.py": {
        "what is left of a batch has one error in common": ("continue",),
    },
    "engine/atomq/contrib/kombu/looks.py": {
        "an answer to a look is read alike, repeated or not": (
            "found = self._broker.engine.run(look) if answer else look.parse(reply, True)",
        ),
    },
    "engine/atomq/contrib/kombu/rights.py": {
        "a second more or less; tests read it": tuple(
            f"FORBIDDEN = {seconds}  # seconds for which a right that was there may be missing"
            for seconds in (14.0, 16.0)
        ),
        INSTANT: ("if asked not in self._granted or (since and now - since >= FORBIDDEN):",),
    },
    "engine/atomq/contrib/kombu/task_faults.py": {
        "one more or less; tests read it": tuple(
            f"_MOST = {most}  # of these: producers choose them" for most in (63, 65)
        ),
    },
    "engine/atomq/contrib/kombu/worker_hooks.py": {
        "it is asked whether the mark is there": (
            "setattr(noted, _MARK, False)",
            "setattr(asked, _MARK, False)",
        ),
        INSTANT: ("if time.monotonic() >= until:  # a soft shutdown: its tasks have time",),
    },
    "engine/atomq/arguments.py": {
        "what the short way leaves out the long one takes": tuple(
            f"if type(value) is int and low {low} value {high} high:  # as nearly always"
            for low, high in (("<", "<="), ("<=", "<"))
        ),
        "no text has fewer characters than none": (
            "def text(name: str, value: Any, most: int, *, least: int = -1) -> str:",
        ),
        "no number of seconds is just as many ms": (
            "if not known or not 0 <= number * 1000 < LAST_MS:",
        ),
        "0 is 0": ("return float(number) if number >= 0 else 0.0",),
    },
    "engine/atomq/option_checks.py": {
        "there is one: first and last": (
            'hint = f" (did you mean {nearest[ -1]}?)" if nearest else ""',
            "return words[ -1] if len(words) == 1 else f\"{', '.join(words[:-1])} or {words[-1]}\"",
        ),
        "the nearest comes first": (
            "nearest = difflib.get_close_matches(str(name), list(known), n= 2)",
        ),
    },
    "engine/atomq/address.py": {
        "there is one: first and last": (
            'hint = f" (did you mean {nearest[ -1]}://?)" if nearest else f"; {_LOOKS_LIKE}"',
        ),
        "the nearest comes first": ("nearest = difflib.get_close_matches(scheme, _SCHEMES, n= 2)",),
        "what makes an address says it": ("sentinel_tls: bool = True",),
    },
    "engine/atomq/overview.py": {
        "it is a group of one: first and last": ("self.unreadable[group[ -1].name] = answer",),
        "all have one layout": (
            'groups = [[queue] for queue in page] if page[ -1].layout == "cluster" else [page]',
        ),
    },
    "engine/atomq/shared.py": {
        SET_BEFORE: tuple(f"self._thread = {number}" for number in (1, -1)),
        FOR_EVER: (
            *("if not others is not None:", "if others is None:", "if not cancelling():"),
            "if not self._thread == threading.get_ident():",
            "if self._thread != threading.get_ident():",
        ),
    },
    "engine/atomq/contrib/kombu/control.py": {
        "it is asked whether the mark is there": ("setattr(extended, _MARK, False)",),
        FOR_EVER: ("left = left[batch.index(found[-1].name) - 1 if full else len(batch) :]",),
    },
    "engine/atomq/contrib/cluster_client.py": {
        FOR_EVER: (
            *(f"for half in {halves}" for halves in ("(0, 2)", "( -1, 1)")),
            (
                'next(tag for n in itertools.count() if hash_slot(tag := f"{{{n}}}") // '
                "(SLOTS // 1) == half)"
            ),
        ),
        "it finds one in each half too": (
            (
                'next(tag for n in itertools.count() if hash_slot(tag := f"{{{n}}}") // '
                "(SLOTS // 3) == half)"
            ),
        ),
        SET_BEFORE: tuple(f"self._said_at = self._heard_at = {at}" for at in (1.0, -1.0)),
        INSTANT: ("if line.talk.under_way and now - self._heard_at >= DEAF:",),
    },
    "engine/atomq/contrib/fleet.py": {
        SET_BEFORE: tuple(f"self._said = {at}" for at in (1.0, -1.0)),
        LONG_AGO: tuple(f"self._next = {at}" for at in (1.0, -1.0)),
        "somewhat more or less; tests read it": (
            *(
                f"LEAVING = {seconds}  # seconds that a consumer which leaves waits for the node "
                "of its queue"
                for seconds in (1.5, -0.5)
            ),
            *(f"KEPT_MS = {ms}" for ms in (59999, 60001)),
        ),
    },
    "engine/atomq/metrics.py": {
        "the collector says by itself what it has": (
            "registry = CollectorRegistry(auto_describe=True)",
        ),
        "any bound will do between what counts and what no float holds": (
            *(
                f"_MOST = {most}  # what counts is less; of what others wrote no float may hold it"
                for most in ("1 << 62", "1 << 64", "2 << 63")
            ),
            "if abs(value) <= _MOST:",
            "return value if isinstance(value, int) and abs(value) <= _MOST else 0",
        ),
    },
    "engine/atomq/keys.py": {
        LONG_AGO: tuple(
            f"self.{name} = {at}" for name in ("noted", "looking") for at in (1.0, -1.0)
        ),
    },
    "engine/atomq/queue_base.py": {
        "one more or less of them": tuple(
            f"self._idle: deque[Any] = deque(maxlen= {most})  # receivers; of more at a time some "
            "are forgotten"
            for most in (63, 65)
        ),
        "there is one: first and last": ("_parts([part])[ -1],",),
        "512 s and 1024 s are more than 300 s": (
            "return min(300.0, 2.0 ** min(deliveries - 1, 10)) * random.uniform(0.75, 1.25)",
        ),
        "the first step is 1 for any of them": (
            "step=self.keys.step_of(item.priority) if item.priority != -1 else 1,",
        ),
    },
    "engine/atomq/contrib/kombu/hand_over.py": {
        FOR_EVER: ("if not lapsed(oldest[1].receipt):",),
    },
    "engine/atomq/contrib/kombu/poller.py": {
        LONG_AGO: ("self._handed_at = 1.0", "self._handed_at = -1.0"),
        INSTANT: (
            "if self._waker is not None and time.monotonic() >= until:",
            (
                "if self._alarm is not None and now <= (at := self._intake.next_at) < "
                "self._alarm.at:"
            ),
            "if self._alarm is not None and at <= self._alarm.at:",
        ),
        FOR_EVER: (
            "if not self._intake.has_answer:",
            "while not self._buffer.waiting and not stopping():",
            "while self._buffer.waiting or not stopping():",
        ),
    },
    "engine/atomq/contrib/kombu/line.py": {
        "it is set with the line, and read while there is one": (
            "self._opened = 1.0",
            "self._opened = -1.0",
            "self._moves = self._era = 1",
            "self._moves = self._era = -1",
        ),
    },
}


def why(name: str, what: str) -> str | None:
    """Why a mutant of this file, described as it is printed, needs no test; None: it does."""
    change = what.partition("\n  - ")[2]
    before, _, changed = change.partition("\n  + ")
    changed = changed or f"without {before}"
    for reason, lines in EXPLAINED.get(name, {}).items():
        if changed in lines:
            return reason
    return next((reason for reason, like in ALWAYS.items() if re.search(like, change)), None)
