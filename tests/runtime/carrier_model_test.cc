// carrier_model_test.cc - the ownership protocol of carrier.h, every interleaving, with the store buffers modelled.
//
// Owns:        a model of C1..C4 (a carrier that leaves, runs the program and enters, again and again), of M1..M6 (the
//              monitor: look twice, claim, barrier, look, take or share, let go) and of G1..G4 (give_away), as machines of
//              one memory access per step; and the search through all their states.
// Keeps true:  a carrier's stores reach memory in order but late (x86-TSO); loads see the own buffer first; the
//              monitor's M3 is membarrier: it empties every buffer.  What is searched for is a state in which the
//              worker's queues may be touched by two at a time, or in which its owner is a spare that nobody wakes.
// See also:    runtime/carrier.h, whose steps the labels are named after.
#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <set>
#include <string>

namespace {

constexpr int kCarriers = 3;  // two that take turns, and the one that the monitor or a giver may hand to
constexpr int kEnters = 2;    // how often each carrier comes in from the program

struct Variant {
  bool barrier = true;        // M3
  bool compare_owner = true;  // M4 looks at the owner as well as at its stay
  bool gives_away = false;    // carriers inside may hand the worker on by themselves
  bool unique_ticks = true;   // C1 adds to the tick; else a later stay can look like an earlier one
};

// Everything shared: owner, claim, and each carrier's stay (tick * 2 + in program).
enum Address : uint8_t { kOwner, kClaim, kStay0, kStay1, kStay2, kAddresses };

struct Store {
  uint8_t address, value;
};

struct Carrier {
  enum Step : uint8_t {
    kSpare,       // waits to be assigned
    kInside,      // owns the worker and may touch its queues
    kC1,          // about to store "in program"
    kProgram,     // C2
    kC3,          // about to store "inside"
    kC4Claim,     // about to read claim
    kC4Owner,     // about to read owner, having seen claim == 0
    kG1,          // inside, about to store owner = a spare
    kStray,       // came in, the worker was gone
  };
  uint8_t step = kSpare;
  uint8_t enters = kEnters;
  uint8_t assigned = 0;
  uint8_t buffered = 0;
  std::array<Store, 3> buffer{};
};

struct Monitor {
  enum Step : uint8_t { kLook, kLookStay, kLookAgain, kM2, kM3, kM4Owner, kM4Stay, kM5, kM5Assign, kM6 };
  uint8_t step = kLook;
  uint8_t owner = 0, stay = 0, rounds = 3;
};

struct World {
  std::array<uint8_t, kAddresses> memory{};
  std::array<Carrier, kCarriers> carriers{};
  Monitor monitor;
  bool operator<(const World& other) const { return memcmp(this, &other, sizeof *this) < 0; }
};
static_assert(std::has_unique_object_representations_v<Store>);

class Search {
 public:
  explicit Search(const Variant& variant) : variant_(variant) {}

  // What went wrong, or nothing.
  std::string run() {
    World start;
    memset(static_cast<void*>(&start), 0, sizeof start);
    for (Carrier& carrier : start.carriers) carrier = Carrier{};
    start.monitor = Monitor{};
    start.memory[kOwner] = 0;
    start.carriers[0].step = Carrier::kInside;
    reach(start);
    while (!todo_.empty() && wrong_.empty()) {
      const World world = todo_.front();
      todo_.pop_front();
      for (int c = 0; c < kCarriers && wrong_.empty(); ++c) {
        drain_one(world, c);
        step_carrier(world, c);
      }
      step_monitor(world);
    }
    return wrong_;
  }
  size_t states() const { return seen_.size(); }
  size_t handoffs() const { return handoffs_; }

 private:
  void reach(const World& world) {
    // Who may touch the worker's queues right now?
    int holders = 0;
    for (const Carrier& c : world.carriers)
      holders += c.step == Carrier::kInside || c.step == Carrier::kC1 || c.step == Carrier::kG1;
    holders += world.monitor.step == Monitor::kM5;
    if (holders > 1) wrong_ = "two at a time have the worker";
    const Carrier& owner = world.carriers[world.memory[kOwner]];
    if (owner.step == Carrier::kSpare && owner.assigned == 0) wrong_ = "the worker's owner is spare: nobody runs it";
    if (seen_.insert(world).second) todo_.push_back(world);
  }

  uint8_t load(const World& world, int c, uint8_t address) const {
    const Carrier& carrier = world.carriers[c];
    for (int i = carrier.buffered; i-- > 0;)
      if (carrier.buffer[i].address == address) return carrier.buffer[i].value;
    return world.memory[address];
  }

  // False: the buffer is full, the step has to wait for a drain.
  static bool store(World& world, int c, uint8_t address, uint8_t value) {
    Carrier& carrier = world.carriers[c];
    if (carrier.buffered == carrier.buffer.size()) return false;
    carrier.buffer[carrier.buffered++] = {address, value};
    return true;
  }

  static void drain_first(World& world, int c) {
    Carrier& carrier = world.carriers[c];
    world.memory[carrier.buffer[0].address] = carrier.buffer[0].value;
    for (int i = 1; i < carrier.buffered; ++i) carrier.buffer[i - 1] = carrier.buffer[i];
    carrier.buffer[--carrier.buffered] = {};
  }

  void drain_one(const World& world, int c) {
    if (world.carriers[c].buffered == 0) return;
    World next = world;
    drain_first(next, c);
    reach(next);
  }

  static void drain_all(World& world, int c) {
    while (world.carriers[c].buffered != 0) drain_first(world, c);
  }

  static int some_spare(const World& world) {
    for (int c = 0; c < kCarriers; ++c)
      if (world.carriers[c].step == Carrier::kSpare && world.carriers[c].assigned == 0) return c;
    return -1;
  }

  void step_carrier(const World& world, int c) {
    World next = world;
    Carrier& carrier = next.carriers[c];
    const auto stay = static_cast<uint8_t>(kStay0 + c);
    switch (carrier.step) {
      case Carrier::kSpare:  // woken by a futex call: a full barrier on both sides
        if (carrier.assigned == 0) return;
        carrier.assigned = 0;
        carrier.step = Carrier::kInside;
        break;
      case Carrier::kInside:
        if (carrier.enters == 0) return;
        if (variant_.gives_away) {
          World giving = next;
          giving.carriers[c].step = Carrier::kG1;
          reach(giving);
        }
        carrier.step = Carrier::kC1;
        break;
      case Carrier::kC1: {
        const uint8_t value = load(next, c, stay);
        const auto tick = static_cast<uint8_t>(variant_.unique_ticks ? (value | 1) + 2 : value | 1);
        if (!store(next, c, stay, tick)) return;
        carrier.step = Carrier::kProgram;
        break;
      }
      case Carrier::kProgram:
        if (carrier.enters == 0) return;
        --carrier.enters;
        carrier.step = Carrier::kC3;
        break;
      case Carrier::kC3:
        if (!store(next, c, stay, load(next, c, stay) & 0xfe)) return;
        carrier.step = Carrier::kC4Claim;
        break;
      case Carrier::kC4Claim:
        if (load(next, c, kClaim) != 0) return;  // C4b: waits, and looks again
        carrier.step = Carrier::kC4Owner;
        break;
      case Carrier::kC4Owner:
        carrier.step = load(next, c, kOwner) == c ? Carrier::kInside : Carrier::kStray;
        break;
      case Carrier::kG1: {
        const int to = some_spare(next);
        if (to < 0) {
          carrier.step = Carrier::kC1;
          break;
        }
        if (!store(next, c, kOwner, static_cast<uint8_t>(to))) return;
        drain_all(next, c);  // G3 is a futex call
        next.carriers[to].assigned = 1;
        carrier.step = Carrier::kStray;
        break;
      }
      case Carrier::kStray:  // parks its fiber and is spare; the list's lock is a full barrier
        drain_all(next, c);
        carrier.step = Carrier::kSpare;
        break;
      default:
        return;
    }
    reach(next);
  }

  void step_monitor(const World& world) {
    World next = world;
    Monitor& m = next.monitor;
    const auto stay_of = [&](uint8_t c) { return next.memory[kStay0 + c]; };
    switch (m.step) {
      case Monitor::kLook:
        if (m.rounds == 0) return;
        --m.rounds;
        m.owner = next.memory[kOwner];
        m.step = Monitor::kLookStay;
        break;
      case Monitor::kLookStay:
        m.stay = stay_of(m.owner);
        m.step = (m.stay & 1) != 0 ? Monitor::kLookAgain : Monitor::kLook;
        break;
      case Monitor::kLookAgain:  // M1
        m.step = next.memory[kOwner] == m.owner && stay_of(m.owner) == m.stay ? Monitor::kM2 : Monitor::kLook;
        break;
      case Monitor::kM2:
        next.memory[kClaim] = 1;  // seq_cst: nothing of the monitor's is left in a buffer
        m.step = variant_.barrier ? Monitor::kM3 : Monitor::kM4Owner;
        break;
      case Monitor::kM3:
        for (int c = 0; c < kCarriers; ++c) drain_all(next, c);
        m.step = Monitor::kM4Owner;
        break;
      case Monitor::kM4Owner:
        if (variant_.compare_owner && next.memory[kOwner] != m.owner) {
          m.step = Monitor::kM6;
          break;
        }
        m.owner = next.memory[kOwner];
        m.step = Monitor::kM4Stay;
        break;
      case Monitor::kM4Stay:
        m.step = stay_of(m.owner) == m.stay ? Monitor::kM5 : Monitor::kM6;
        break;
      case Monitor::kM5: {  // sharing needs no more than to be here; handing over goes on
        const int to = some_spare(next);
        if (to >= 0) {
          World handing = next;
          handing.memory[kOwner] = static_cast<uint8_t>(to);
          handing.carriers[to].assigned = 1;
          handing.monitor.step = Monitor::kM6;
          ++handoffs_;
          reach(handing);
        }
        m.step = Monitor::kM6;
        break;
      }
      case Monitor::kM6:
        next.memory[kClaim] = 0;
        m.owner = m.stay = 0;
        m.step = Monitor::kLook;
        break;
      default:
        return;
    }
    reach(next);
  }

  const Variant variant_;
  std::set<World> seen_;
  std::deque<World> todo_;
  std::string wrong_;
  size_t handoffs_ = 0;
};

TEST(CarrierModel, TheWorkerIsNeverHeldByTwo) {
  Search search({});
  EXPECT_EQ(search.run(), "");
  EXPECT_GT(search.handoffs(), 100u);
  EXPECT_GT(search.states(), 10'000u);
}

TEST(CarrierModel, AlsoWhenCarriersGiveItAway) {
  Variant variant;
  variant.gives_away = true;
  Search search(variant);
  EXPECT_EQ(search.run(), "");
  EXPECT_GT(search.handoffs(), 100u);
}

// The model can tell: without the barrier C3 may still be on its way when M4 looks.
TEST(CarrierModel, FindsTheRaceWithoutTheBarrier) {
  Variant variant;
  variant.barrier = false;
  EXPECT_NE(Search(variant).run(), "");
}

// A tick that came twice would make M4 take a later stay for the one that it saw.  The claim alone would still
// exclude: what is lost is only that it was stuck.  So the search finds no second holder here.
TEST(CarrierModel, RepeatedTicksWouldOnlyHandOverTooEarly) {
  Variant variant;
  variant.unique_ticks = false;
  EXPECT_EQ(Search(variant).run(), "");
}

}  // namespace
