/* Rotation, eviction and failover of the key protocol, for Spin: see README.md of this folder.

   Two crypto nodes of different rank, two honest members, one captured member that is evicted. Control messages
   may be lost, delayed, reordered and repeated: an announcement may be received by any process at any later time,
   or never. Crypto nodes and members may crash and restart with their disk only; both crypto nodes may be active.
   Signatures, KEM and hashes are ideal: a message was sent by an honest node, and a sealed seed opens only for the
   member it was sealed to. The 200 ms time-out may expire at any time after an announcement, and `ready` may be
   received at any time after an installation: a lost message is one that has not arrived yet.

   -DMUTANT=n breaks one rule; Spin must then find a violation. */

#ifndef MUTANT
#define MUTANT 0
#endif

#define HONEST 2
#define CAPTURED 2                     /* number of the captured member; its bit is 4 */
#define LAST 4                         /* highest number in the model */
#define BIT(m) (1 << (m))

/* The announcement of each number, on the network. */
typedef Epoch {
  bit announced;
  bit issuer;
  unsigned named : 3;                  /* bit m: the seed is sealed to member m */
  bit carries;                         /* the head lists the eviction */
  bit timed_out;                       /* switched to after the time-out of 200 ms */
  bit ended_early;                     /* ended early by a pending eviction */
  bit switched                         /* the issuer has sent `switch` */
}
Epoch wire[LAST + 1];

/* Crypto nodes. On disk: reserved, ordered. In memory: the rest. */
typedef Node {
  unsigned reserved : 3;               /* highest number that may have been issued */
  bit ordered;                         /* has the eviction order */
  bit is_active;                       /* active node, not standby */
  unsigned seen : 3;                   /* highest number received or announced */
  unsigned in_progress : 3;            /* number announced and not switched to; 0: none */
  bit pending;                         /* it has not announced the eviction yet */
  bit accepted                         /* ghost: it has accepted the order */
}
Node node[2];

/* Honest members. On disk: stored, informed. In memory: the rest. */
typedef Member {
  unsigned stored : 3;                 /* highest number installed */
  bit informed;                        /* has received the eviction */
  unsigned held : 6;                   /* bit n: has the keys of epoch n */
  unsigned sending : 3;                /* number it sends under; 0: none */
  unsigned max_installed : 3           /* ghost: highest number it ever installed */
}
Member member[HONEST];

unsigned captured : 6;                 /* bit n: the captured member has the keys of epoch n */
bit evicted;                           /* an order was accepted */
bit crashed;                           /* one process has crashed; more are left to the other tests */
bit takeover;                          /* one takeover has happened */

/* What an informed member sends is confidential from the captured one. */
#define CONFIDENTIAL(m) (!(member[m].informed && member[m].sending != 0 && (captured & BIT(member[m].sending))))

/* The named honest members have installed it. */
#define HAS(m, n) (!(wire[n].named & BIT(m)) || member[m].max_installed >= n)
#if MUTANT == 4
#define READY(n) true
#else
#define READY(n) (HAS(0, n) && HAS(1, n))
#endif

/* An informed member rejects a roster with the evicted one. */
#if MUTANT == 7
#define REJECTED(m, n) false
#else
#define REJECTED(m, n) (member[m].informed && (wire[n].named & BIT(CAPTURED)))
#endif

/* Senders may use it: live members have it, or the time-out has expired, or an eviction is involved. */
#define MAY_SEND(n) (wire[n].timed_out || wire[n].ended_early || wire[n].carries || (HAS(0, n) && HAS(1, n)))

inline announce(r, evicts) {
  number = (node[r].seen > node[r].reserved -> node[r].seen : node[r].reserved);
#if MUTANT == 2
  number = node[r].seen;               /* the disk is not read */
#endif
  number++;
#if MUTANT != 1
  if
  :: number % 2 != r -> number++       /* rank */
  :: else
  fi;
#endif
  if
  :: number <= LAST ->
    /* No number is announced twice, by two issuers or by one. */
    assert(!wire[number].announced);
    /* Packages of all members or of some are available. */
    if
    :: named = 7
    :: named = 5                       /* members are symmetric: one case suffices */
    fi;
#if MUTANT != 3
    if
    :: node[r].ordered -> named = named & 3
    :: else
    fi;
#endif
    /* A node that has accepted the order never seals to the captured member again. */
    assert(!(node[r].accepted && (named & BIT(CAPTURED))));
    node[r].reserved = number;
    node[r].seen = number;
    node[r].pending = 0;
    wire[number].announced = 1;
    wire[number].issuer = r;
    wire[number].named = named;
    wire[number].carries = node[r].ordered;
    if
    :: evicts -> wire[number].switched = 1; node[r].in_progress = 0 /* without waiting */
    :: else -> node[r].in_progress = number
    fi;
    if
    :: named & BIT(CAPTURED) -> captured = captured | BIT(number)
    :: else
    fi;
    assert(!(wire[number].carries && (captured & BIT(number))))
  :: else
  fi;
  number = 0;
  named = 0
}

proctype Crypto(bit r) {
  byte number, named;
end:
  do
  /* A rekey, when no announcement is in progress. */
  :: atomic { node[r].is_active && !node[r].pending && node[r].in_progress == 0 && node[r].seen < LAST ->
      announce(r, 0) }

  /* An operator's order: stored first. */
  :: atomic { node[r].is_active && !evicted ->
      evicted = 1;
      node[r].ordered = 1;
      node[r].accepted = 1;
      node[r].pending = 1 }

  /* The evicting epoch. An announcement in progress ends at once. */
  :: atomic { node[r].is_active && node[r].pending && node[r].seen < LAST ->
      if
      :: node[r].in_progress != 0 ->
        wire[node[r].in_progress].ended_early = 1;
        wire[node[r].in_progress].switched = 1
      :: else
      fi;
      announce(r, 1) }

  /* Switch: every live member is ready, or the time-out has expired. */
  :: atomic { node[r].in_progress != 0 ->
      if
      :: READY(node[r].in_progress)
      :: wire[node[r].in_progress].timed_out = 1
      fi;
      wire[node[r].in_progress].switched = 1;
      node[r].in_progress = 0 }

  /* It receives a higher announcement of the other: adopts number and eviction, and becomes standby. */
  :: atomic { select (number : 1 .. LAST);
      if
      :: wire[number].announced && wire[number].issuer != r && number > node[r].seen ->
        node[r].seen = number;
        node[r].is_active = 0;
        node[r].in_progress = 0;
        node[r].ordered = node[r].ordered | wire[number].carries;
        node[r].pending = node[r].pending & !wire[number].carries
      :: else
      fi;
      number = 0 }

  /* It receives no beats, or its eviction order was not announced: it becomes active. */
  :: atomic { !node[r].is_active && !takeover ->
      takeover = 1;
      node[r].is_active = 1;
      if
      :: node[r].ordered && !(wire[node[r].seen].announced && wire[node[r].seen].carries) ->
        node[r].pending = 1
      :: else
      fi }

  /* It crashes and restarts with its disk. */
  :: atomic { !crashed ->
      crashed = 1;
      node[r].is_active = 0;
      node[r].seen = 0;
      node[r].in_progress = 0;
      node[r].pending = 0;
#if MUTANT == 5
      node[r].ordered = 0              /* the order was not stored */
#endif
    }
  od
}

/* A member receives an announcement, whether it is named in it or not. */
inline receive(m, n) {
  fresh = wire[n].carries && !member[m].informed && n > member[m].stored; /* an older one is ignored */
  if
  :: fresh ->
    member[m].informed = 1;
#if MUTANT != 8
    /* every earlier epoch of the captured member is wiped and not sent under */
    member[m].held = member[m].held & ~(captured & (BIT(n) - 1));
    if
    :: captured & BIT(member[m].sending) -> member[m].sending = 0
    :: else
    fi
#endif
  :: else
  fi;
  if
  :: n > member[m].stored && (wire[n].named & BIT(m)) && !REJECTED(m, n) ->
    assert(n > member[m].max_installed);        /* no member returns to an older epoch */
    member[m].max_installed = n;
    member[m].stored = n;
    member[m].held = member[m].held | BIT(n);
    if
    :: fresh -> member[m].held = BIT(n); member[m].sending = n
    :: else
    fi
  :: else
  fi;
  fresh = 0
}

proctype Drone(byte m) {
  byte n;
  bit fresh;
end:
  do
  :: atomic { select (n : 1 .. LAST);
      if
      :: wire[n].announced -> receive(m, n)
      :: else
      fi;
      assert(CONFIDENTIAL(0) && CONFIDENTIAL(1));
      n = 0 }

  /* A switch arrives, or a beat with `switched`. */
  :: atomic { select (n : 1 .. LAST);
      if
      :: wire[n].switched && (member[m].held & BIT(n)) && n > member[m].sending ->
        member[m].sending = n;
        member[m].held = member[m].held & ~(BIT(n) - 1);  /* their grace period ends at some time */
        /* No sending under an epoch that a live member lacks, except after the time-out or with an eviction. */
        assert(MAY_SEND(n))
      :: else
      fi;
      assert(CONFIDENTIAL(0) && CONFIDENTIAL(1));
      n = 0 }

  /* It restarts. */
  :: atomic { !crashed ->
      crashed = 1;
      member[m].held = 0;
      member[m].sending = 0;
#if MUTANT == 6
      member[m].stored = 0             /* the number was not stored */
#endif
    }
  od
}

init {
  atomic {
    node[0].is_active = 1;
    run Crypto(0);
    run Crypto(1);
    run Drone(0);
    run Drone(1)
  }
}
