// list.h - intrusive doubly linked list; a node removes itself in O(1).
//
// Owns:        the links.  Keeps true: an unlinked node has null links, so linked() is exact.
// Called by:   holders of whatever lock guards the list.
#pragma once

#include "runtime/base/check.h"

namespace weft {

struct Link {
  Link* next = nullptr;
  Link* previous = nullptr;
  bool linked() const noexcept { return next != nullptr; }
};

// T derives from Link.
template <class T>
class List {
 public:
  constexpr List() noexcept { reset(); }
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  bool empty() const noexcept { return head_.next == &head_ || head_.next == nullptr; }
  T* front() noexcept { return empty() ? nullptr : static_cast<T*>(head_.next); }
  T* after(T* node) noexcept { return node->next == &head_ ? nullptr : static_cast<T*>(node->next); }

  void push_back(T* item) noexcept {
    if (head_.next == nullptr) reset();
    Link* node = item;
    WEFT_DCHECK(!node->linked(), "a node is on one list at a time");
    node->previous = head_.previous;
    node->next = &head_;
    head_.previous->next = node;
    head_.previous = node;
  }
  void push_front(T* item) noexcept {
    if (head_.next == nullptr) reset();
    Link* node = item;
    WEFT_DCHECK(!node->linked(), "a node is on one list at a time");
    node->next = head_.next;
    node->previous = &head_;
    head_.next->previous = node;
    head_.next = node;
  }
  static void remove(T* item) noexcept {
    Link* node = item;
    node->previous->next = node->next;
    node->next->previous = node->previous;
    node->next = node->previous = nullptr;
  }
  T* pop_front() noexcept {
    T* item = front();
    if (item != nullptr) remove(item);
    return item;
  }
  // Forgets all nodes without touching them (fork child: they are gone).
  constexpr void reset() noexcept { head_.next = head_.previous = &head_; }

 private:
  Link head_;
};

}  // namespace weft
