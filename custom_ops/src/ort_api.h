// Calling ONNX Runtime's C API from C++: errors as exceptions inside, as OrtStatus at the edge.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <initializer_list>
#include <string>
#include <utility>

#include "ort_abi.h"

namespace axform {

// Something about the model or its inputs is wrong; the message says what, where and what to do.
struct OpError {
  std::string message;
};

// A call of ONNX Runtime failed; the status is handed back to it.
struct OrtFailure {
  ort::OrtStatus* status;
};

inline void check(ort::OrtStatus* status) {
  if (status != nullptr) throw OrtFailure{status};
}

// Runs `body` and turns what it throws into a status; exceptions must not cross into ONNX Runtime.
template <class Body>
ort::OrtStatus* guarded(const ort::OrtApi& api, Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const OrtFailure& failure) {
    return failure.status;
  } catch (const OpError& error) {
    return api.CreateStatus(ort::ORT_INVALID_ARGUMENT, error.message.c_str());
  } catch (const std::exception& error) {
    return api.CreateStatus(ort::ORT_RUNTIME_EXCEPTION, error.what());
  } catch (...) {
    return api.CreateStatus(ort::ORT_RUNTIME_EXCEPTION, "axform: unknown error in the op library");
  }
}

// The dimensions of a tensor. They are read at every call, so they take no memory of the heap.
class Dims {
 public:
  static constexpr size_t kMaxRank = 8;

  Dims() = default;
  Dims(std::initializer_list<int64_t> values) : rank_(values.size()) {
    std::copy(values.begin(), values.end(), values_.begin());
  }
  void resize(size_t rank) {
    if (rank > kMaxRank) {
      throw OpError{"axform: a tensor has " + std::to_string(rank) + " dimensions; at most " +
                    std::to_string(kMaxRank) + " are supported"};
    }
    rank_ = rank;
  }

  size_t size() const { return rank_; }
  bool empty() const { return rank_ == 0; }
  int64_t* data() { return values_.data(); }
  const int64_t* data() const { return values_.data(); }
  int64_t& operator[](size_t i) { return values_[i]; }
  int64_t operator[](size_t i) const { return values_[i]; }
  int64_t& back() { return values_[rank_ - 1]; }
  int64_t back() const { return values_[rank_ - 1]; }
  int64_t* begin() { return data(); }
  int64_t* end() { return data() + rank_; }
  const int64_t* begin() const { return data(); }
  const int64_t* end() const { return data() + rank_; }

 private:
  std::array<int64_t, kMaxRank> values_{};
  size_t rank_ = 0;
};

// A tensor of the running node; null data for an optional input that is absent.
struct Tensor {
  const ort::OrtValue* value = nullptr;
  const void* data = nullptr;
  Dims dims;

  bool present() const { return value != nullptr; }
};

inline Tensor input(const ort::OrtApi& api, const ort::OrtKernelContext* context, size_t index) {
  size_t count = 0;
  check(api.KernelContext_GetInputCount(context, &count));
  Tensor tensor;
  if (index >= count) return tensor;
  check(api.KernelContext_GetInput(context, index, &tensor.value));
  if (tensor.value == nullptr) return tensor;
  void* data = nullptr;
  check(api.GetTensorMutableData(const_cast<ort::OrtValue*>(tensor.value), &data));
  tensor.data = data;
  ort::OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.GetTensorTypeAndShape(tensor.value, &info));
  size_t rank = 0;
  ort::OrtStatus* status = api.GetDimensionsCount(info, &rank);
  if (status == nullptr && rank <= Dims::kMaxRank) status = api.GetDimensions(info, tensor.dims.data(), rank);
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  tensor.dims.resize(rank);
  return tensor;
}

inline void* output(const ort::OrtApi& api, ort::OrtKernelContext* context, size_t index, const Dims& dims) {
  ort::OrtValue* value = nullptr;
  check(api.KernelContext_GetOutput(context, index, dims.data(), dims.size(), &value));
  void* data = nullptr;
  check(api.GetTensorMutableData(value, &data));
  return data;
}

// The allocator of the device that `near` lies on. On CUDA it is stream-ordered: the arena hands a block that was given
// back only to later work of the same stream.
class Allocator {
 public:
  Allocator(const ort::OrtApi& api, const ort::OrtKernelContext* context, const Tensor& near) : api_(api) {
    const ort::OrtMemoryInfo* memory = nullptr;
    check(api.GetTensorMemoryInfo(near.value, &memory));
    check(api.KernelContext_GetAllocator(context, memory, &allocator_));
  }
  ~Allocator() { api_.ReleaseAllocator(allocator_); }
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

  void* take(size_t bytes) const {
    void* data = nullptr;
    check(api_.AllocatorAlloc(allocator_, bytes, &data));
    return data;
  }
  void give_back(void* data) const {
    if (ort::OrtStatus* status = api_.AllocatorFree(allocator_, data)) api_.ReleaseStatus(status);
  }

 private:
  const ort::OrtApi& api_;
  ort::OrtAllocator* allocator_ = nullptr;
};

// Memory that is given back at the end of the scope; none for 0 bytes.
class Scratch {
 public:
  Scratch(const Allocator& allocator, size_t bytes)
      : allocator_(allocator), data_(bytes == 0 ? nullptr : allocator.take(bytes)) {}
  ~Scratch() {
    if (data_ != nullptr) allocator_.give_back(data_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  const Allocator& allocator_;
  void* const data_;
};

// Calls body(i) for i in [0, total) on the session's own thread pool, and fails with the last failure of any of them.
template <class Body>
void parallel_for(const ort::OrtApi& api, const ort::OrtKernelContext* context, size_t total, const Body& body) {
  if (total == 1) {
    body(size_t{0});
    return;
  }
  struct Call {
    const ort::OrtApi& api;
    const Body& body;
    std::atomic<ort::OrtStatus*> failure;
  } call{api, body, nullptr};
  auto run = [](void* user, size_t i) {
    Call& c = *static_cast<Call*>(user);
    ort::OrtStatus* failure = guarded(c.api, [&] { c.body(i); });
    if (failure != nullptr) failure = c.failure.exchange(failure);
    if (failure != nullptr) c.api.ReleaseStatus(failure);
  };
  check(api.KernelContext_ParallelFor(context, run, total, 0, &call));
  check(call.failure.load());
}

// The attributes of a node. Getters return the default where the node does not carry the attribute, and fail where it
// carries one of another type.
class Attributes {
 public:
  Attributes(const ort::OrtApi& api, const ort::OrtKernelInfo* info, const char* op) : api_(api), info_(info) {
    size_t size = 0;
    std::string name;
    if (!drop(api.KernelInfo_GetNodeName(info, nullptr, &size)) && size > 0) {
      name.resize(size);
      if (drop(api.KernelInfo_GetNodeName(info, name.data(), &size))) name.clear();
      while (!name.empty() && name.back() == '\0') name.pop_back();
    }
    place_ = std::string(op) + (name.empty() ? "" : " node \"" + name + "\"");
  }

  // "SignMatchingAttention node "attn_3"", for messages.
  const std::string& place() const { return place_; }

  bool has(const char* name) const {
    int64_t i;
    float f;
    size_t size = 0;
    return !drop(api_.KernelInfoGetAttribute_int64(info_, name, &i)) ||
           !drop(api_.KernelInfoGetAttribute_float(info_, name, &f)) ||
           !drop(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size));
  }
  int64_t integer(const char* name, int64_t fallback) const {
    int64_t value;
    if (!drop(api_.KernelInfoGetAttribute_int64(info_, name, &value))) return value;
    if (has(name)) throw OpError{place_ + ": attribute " + name + " must be an integer"};
    return fallback;
  }
  float real(const char* name, float fallback) const {
    float value;
    if (!drop(api_.KernelInfoGetAttribute_float(info_, name, &value))) return value;
    if (has(name)) throw OpError{place_ + ": attribute " + name + " must be a float"};
    return fallback;
  }
  std::string text(const char* name, const char* fallback) const {
    size_t size = 0;
    if (drop(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) {
      if (has(name)) throw OpError{place_ + ": attribute " + name + " must be a string"};
      return fallback;
    }
    std::string value(size, '\0');
    check(api_.KernelInfoGetAttribute_string(info_, name, value.data(), &size));
    while (!value.empty() && value.back() == '\0') value.pop_back();
    return value;
  }
  Dims integers(const char* name) const {
    size_t size = 0;
    if (drop(api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &size))) {
      throw OpError{place_ + ": attribute " + name + " is required and must be a list of integers"};
    }
    if (size > Dims::kMaxRank) {
      throw OpError{place_ + ": attribute " + name + " has " + std::to_string(size) + " entries; at most " +
                    std::to_string(Dims::kMaxRank) + " are supported"};
    }
    Dims values;
    values.resize(size);
    if (size != 0) check(api_.KernelInfoGetAttributeArray_int64(info_, name, values.data(), &size));
    return values;
  }

 private:
  bool drop(ort::OrtStatus* status) const {
    if (status == nullptr) return false;
    api_.ReleaseStatus(status);
    return true;
  }

  const ort::OrtApi& api_;
  const ort::OrtKernelInfo* info_;
  std::string place_;
};

}  // namespace axform
