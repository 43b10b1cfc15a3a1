// timers.cc - see timers.h.
#include "runtime/timers.h"

#include "runtime/park.h"

namespace weft {
namespace {

// Two heaps into one; the loser becomes the winner's first child.
TimerNode* merge(TimerNode* a, TimerNode* b) noexcept {
  if (a == nullptr) return b;
  if (b == nullptr) return a;
  if (b->when < a->when) {
    TimerNode* t = a;
    a = b;
    b = t;
  }
  b->sibling = a->child;
  if (b->sibling != nullptr) b->sibling->back = &b->sibling;
  a->child = b;
  b->back = &a->child;
  return a;
}

// Children of a removed node, pairwise left to right, then right to left.
TimerNode* merge_children(TimerNode* first) noexcept {
  TimerNode* pairs = nullptr;
  while (first != nullptr) {
    TimerNode* a = first;
    TimerNode* b = a->sibling;
    first = b != nullptr ? b->sibling : nullptr;
    a->sibling = nullptr;
    if (b != nullptr) b->sibling = nullptr;
    TimerNode* pair = merge(a, b);
    pair->sibling = pairs;
    pairs = pair;
  }
  TimerNode* root = nullptr;
  while (pairs != nullptr) {
    TimerNode* next = pairs->sibling;
    pairs->sibling = nullptr;
    root = merge(root, pairs);
    pairs = next;
  }
  return root;
}

}  // namespace

void Timers::publish() noexcept {
  if (root_ != nullptr) root_->back = &root_;
  next_.store(root_ == nullptr ? Deadline::kNever : root_->when, std::memory_order_release);
}

void Timers::arm(TimerNode& node) noexcept {
  Locked locked(lock_);
  node.child = node.sibling = nullptr;
  node.armed = true;
  root_ = merge(root_, &node);
  publish();
}

void Timers::disarm(TimerNode& node) noexcept {
  Locked locked(lock_);
  if (!node.armed) return;
  node.armed = false;
  *node.back = node.sibling;
  if (node.sibling != nullptr) node.sibling->back = node.back;
  root_ = merge(root_, merge_children(node.child));
  publish();
}

TimerNode* Timers::pop() noexcept {
  TimerNode* node = root_;
  root_ = merge_children(node->child);
  node->armed = false;
  publish();
  return node;
}

int Timers::fire(int64_t now) noexcept {
  int fired = 0;
  if (next() > now) return 0;
  Locked locked(lock_);
  // The wake happens under the lock: disarm() then waits for it, so the node is never touched after its frame.
  for (; root_ != nullptr && root_->when <= now; ++fired) {
    TimerNode* node = pop();
    wake(node->parker, node->stamp, Why::kTimeout);
  }
  return fired;
}

void Timers::reset() noexcept {
  lock_.reset();
  root_ = nullptr;
  publish();
}

}  // namespace weft
