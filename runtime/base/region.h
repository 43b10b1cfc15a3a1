// region.h - memory for the runtime's own tables, straight from the kernel.
//
// Owns:        Region<T>: an append-only array with a fixed virtual reservation; its elements never move and
//              are never unmapped, so a stale pointer into it may always be read.
// Keeps true:  the runtime never calls malloc (FACTS: the program's malloc may itself be hooked or locked).
// Called by:   runtime/ only; growth is guarded by the owner's lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <new>

#include "runtime/base/sys.h"

namespace weft {

template <class T>
class Region {
 public:
  // Reserves room for `capacity` zeroed elements; untouched ones cost no memory.  False: no address space.
  bool reserve(size_t capacity) noexcept {
    if (base_ != nullptr) return true;
    base_ = static_cast<T*>(sys::map(capacity * sizeof(T)));
    capacity_ = base_ == nullptr ? 0 : capacity;
    return base_ != nullptr;
  }
  T* base() const noexcept { return base_; }
  size_t capacity() const noexcept { return capacity_; }
  size_t size() const noexcept { return size_.load(std::memory_order_acquire); }
  T& operator[](size_t index) const noexcept { return base_[index]; }
  // Publishes one more element, already filled in at [size()].  Owner's lock held.
  void grow() noexcept { size_.store(size() + 1, std::memory_order_release); }
  void truncate(size_t size) noexcept { size_.store(size, std::memory_order_release); }

 private:
  T* base_ = nullptr;
  size_t capacity_ = 0;
  std::atomic<size_t> size_{0};
};

}  // namespace weft
