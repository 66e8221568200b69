/* Rotation, eviction and failover of the key protocol, for Spin: see README.md of this folder.

   Two crypto nodes of different rank, two honest members, one captured member that is put out. Control messages
   may be lost, delayed, reordered and repeated: whatever was once announced can be taken by anybody at any later
   time, or never. Crypto nodes and members may crash and come back with their disk only; both crypto nodes may
   believe to be in charge. Signatures, KEM and hashes are perfect: a message is what an honest node sent, and a
   sealed seed opens for the member it was sealed to. That 200 ms have passed may come at any time after an
   announcement, and so may the `ready` of whoever has installed: a lost one is one that has not come yet.

   -DMUTANT=n breaks one rule; the model must then find a violation. */

#ifndef MUTANT
#define MUTANT 0
#endif

#define HONEST 2
#define CAPTURED 2                     /* number of the captured member; its bit is 4 */
#define LAST 4                         /* highest number in the model */
#define BIT(m) (1 << (m))

/* What the network knows of each number. */
typedef Epoch {
  bit announced;
  bit issuer;
  unsigned named : 3;                  /* bit m: the seed is sealed to member m */
  bit carries;                         /* the head lists the eviction */
  bit late;                            /* it was switched to after 200 ms, ready or not */
  bit cut;                             /* its end was hastened by an eviction that waited */
  bit switched                         /* the issuer has said `switch` */
}
Epoch wire[LAST + 1];

/* Crypto nodes. On disk: reserved, ordered. In memory: the rest. */
typedef Node {
  unsigned reserved : 3;               /* highest number that may have been issued */
  bit ordered;                         /* knows of the eviction */
  bit charge;                          /* is in charge, as it believes */
  unsigned seen : 3;                   /* highest number it knows of */
  unsigned work : 3;                   /* the number it has announced and not switched to; 0: none */
  bit pressing;                        /* the eviction has not been announced by it yet */
  bit accepted                         /* ghost: it was given the order */
}
Node node[2];

/* Honest members. On disk: stored, knows. In memory: the rest. */
typedef Member {
  unsigned stored : 3;                 /* highest number installed */
  bit knows;                           /* of the eviction */
  unsigned held : 6;                   /* bit n: has the keys of epoch n */
  unsigned sends : 3;                  /* the number it sends under; 0: none */
  unsigned ever : 3                    /* ghost: highest number it ever installed */
}
Member member[HONEST];

unsigned captured : 6;                 /* bit n: the captured member has the keys of epoch n, for ever */
bit put_out;                           /* an order was accepted */
bit trouble;                           /* one process has crashed; more than one is left to the other tests */
bit takeover;                          /* one */

/* What a member sends after it has learnt of the eviction is closed to the captured one. */
#define CLOSED(m) (!(member[m].knows && member[m].sends != 0 && (captured & BIT(member[m].sends))))

/* Have the named honest members installed it? */
#define HAS(m, n) (!(wire[n].named & BIT(m)) || member[m].ever >= n)
#if MUTANT == 4
#define READY(n) true
#else
#define READY(n) (HAS(0, n) && HAS(1, n))
#endif

/* A roster that names who is known to be out is refused. */
#if MUTANT == 7
#define BARRED(m, n) false
#else
#define BARRED(m, n) (member[m].knows && (wire[n].named & BIT(CAPTURED)))
#endif

/* Senders may use it: live members have it, or it is late, or an eviction is in play. */
#define FAIR(n) (wire[n].late || wire[n].cut || wire[n].carries || (HAS(0, n) && HAS(1, n)))

inline announce(r, evicts) {
  number = (node[r].seen > node[r].reserved -> node[r].seen : node[r].reserved);
#if MUTANT == 2
  number = node[r].seen;               /* the disk is not asked */
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
    /* Packages of all or of some were there. */
    if
    :: named = 7
    :: named = 5                       /* members are alike, so one of them is enough */
    fi;
#if MUTANT != 3
    if
    :: node[r].ordered -> named = named & 3
    :: else
    fi;
#endif
    /* Who was told to put the captured one out never seals to it again. */
    assert(!(node[r].accepted && (named & BIT(CAPTURED))));
    node[r].reserved = number;
    node[r].seen = number;
    node[r].pressing = 0;
    wire[number].announced = 1;
    wire[number].issuer = r;
    wire[number].named = named;
    wire[number].carries = node[r].ordered;
    if
    :: evicts -> wire[number].switched = 1; node[r].work = 0 /* it waits for nobody */
    :: else -> node[r].work = number
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
  /* A rotation, when nothing is in work. */
  :: atomic { node[r].charge && !node[r].pressing && node[r].work == 0 && node[r].seen < LAST ->
      announce(r, 0) }

  /* An operator's order: on disk before anything else. */
  :: atomic { node[r].charge && !put_out ->
      put_out = 1;
      node[r].ordered = 1;
      node[r].accepted = 1;
      node[r].pressing = 1 }

  /* The evicting epoch. What is in work ends at once. */
  :: atomic { node[r].charge && node[r].pressing && node[r].seen < LAST ->
      if
      :: node[r].work != 0 -> wire[node[r].work].cut = 1; wire[node[r].work].switched = 1
      :: else
      fi;
      announce(r, 1) }

  /* Switch: every live member is ready, or it is late. */
  :: atomic { node[r].work != 0 ->
      if
      :: READY(node[r].work)
      :: wire[node[r].work].late = 1
      fi;
      wire[node[r].work].switched = 1;
      node[r].work = 0 }

  /* It hears a higher announcement of the other: takes over number and eviction, and steps down. */
  :: atomic { select (number : 1 .. LAST);
      if
      :: wire[number].announced && wire[number].issuer != r && number > node[r].seen ->
        node[r].seen = number;
        node[r].charge = 0;
        node[r].work = 0;
        node[r].ordered = node[r].ordered | wire[number].carries;
        node[r].pressing = node[r].pressing & !wire[number].carries
      :: else
      fi;
      number = 0 }

  /* It hears no beats, or what it was ordered was announced by nobody: it is in charge. */
  :: atomic { !node[r].charge && !takeover ->
      takeover = 1;
      node[r].charge = 1;
      if
      :: node[r].ordered && !(wire[node[r].seen].announced && wire[node[r].seen].carries) ->
        node[r].pressing = 1
      :: else
      fi }

  /* It dies, and comes back with its disk. */
  :: atomic { !trouble ->
      trouble = 1;
      node[r].charge = 0;
      node[r].seen = 0;
      node[r].work = 0;
      node[r].pressing = 0;
#if MUTANT == 5
      node[r].ordered = 0              /* the order was not stored */
#endif
    }
  od
}

/* A member hears an announcement, whether it is named in it or not. */
inline hear(m, n) {
  fresh = wire[n].carries && !member[m].knows && n > member[m].stored; /* an older one is not looked at */
  if
  :: fresh ->
    member[m].knows = 1;
#if MUTANT != 8
    /* every earlier epoch that the captured one is in is wiped, and nothing is sent under it */
    member[m].held = member[m].held & ~(captured & (BIT(n) - 1));
    if
    :: captured & BIT(member[m].sends) -> member[m].sends = 0
    :: else
    fi
#endif
  :: else
  fi;
  if
  :: n > member[m].stored && (wire[n].named & BIT(m)) && !BARRED(m, n) ->
    assert(n > member[m].ever);        /* no member goes back */
    member[m].ever = n;
    member[m].stored = n;
    member[m].held = member[m].held | BIT(n);
    if
    :: fresh -> member[m].held = BIT(n); member[m].sends = n
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
      :: wire[n].announced -> hear(m, n)
      :: else
      fi;
      assert(CLOSED(0) && CLOSED(1));
      n = 0 }

  /* A switch arrives, or a beat that says so. */
  :: atomic { select (n : 1 .. LAST);
      if
      :: wire[n].switched && (member[m].held & BIT(n)) && n > member[m].sends ->
        member[m].sends = n;
        member[m].held = member[m].held & ~(BIT(n) - 1);  /* their grace is over, sooner or later */
        /* Nobody sends under what a live member lacks, unless it is late or an eviction is in play. */
        assert(FAIR(n))
      :: else
      fi;
      assert(CLOSED(0) && CLOSED(1));
      n = 0 }

  /* It restarts. */
  :: atomic { !trouble ->
      trouble = 1;
      member[m].held = 0;
      member[m].sends = 0;
#if MUTANT == 6
      member[m].stored = 0             /* the number was not stored */
#endif
    }
  od
}

init {
  atomic {
    node[0].charge = 1;
    run Crypto(0);
    run Crypto(1);
    run Drone(0);
    run Drone(1)
  }
}
