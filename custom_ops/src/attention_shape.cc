#include "attention_shape.h"

#include <cmath>
#include <vector>

namespace axform {
namespace {

std::string show(const Dims& dims) {
  std::string text = "(";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + ")";
}

AttentionAttributes common_attributes(const Attributes& read, int64_t k) {
  AttentionAttributes a{};
  a.place = read.place();
  a.k = k;
  if (a.k < 1 || a.k > INT32_MAX) {
    throw OpError{a.place + ": attribute k is " + std::to_string(a.k) + "; it is the number of keys kept, 1 or more"};
  }
  a.num_heads = read.integer("num_heads", 0);
  if (a.num_heads < 0) {
    throw OpError{a.place + ": attribute num_heads is " + std::to_string(a.num_heads) + "; it must be positive"};
  }
  a.scale = read.real("scale", 0.0f);
  if (!std::isfinite(a.scale)) throw OpError{a.place + ": attribute scale must be finite"};
  const int64_t causal = read.integer("is_causal", 0);
  if (causal != 0 && causal != 1) {
    throw OpError{a.place + ": attribute is_causal is " + std::to_string(causal) + "; it must be 0 or 1"};
  }
  a.causal = causal == 1;
  return a;
}

[[noreturn]] void fail(const AttentionAttributes& a, const std::string& what) { throw OpError{a.place + ": " + what}; }

Strides strides_of(bool packed, int64_t heads, int64_t rows, int64_t size) {
  if (packed) return {rows * heads * size, size, heads * size};
  return {heads * rows * size, rows * size, size};
}

}  // namespace

AttentionAttributes sign_matching_attributes(const ort::OrtApi& api, const ort::OrtKernelInfo* info) {
  const Attributes read(api, info, "SignMatchingAttention");
  if (!read.has("k")) {
    throw OpError{read.place() + ": attribute k is required; it is the number of keys that each head keeps"};
  }
  AttentionAttributes a = common_attributes(read, read.integer("k", 0));
  const std::string selection = read.text("selection", "majority");
  if (selection != "majority" && selection != "count") {
    fail(a, "attribute selection is \"" + selection + "\"; it must be \"majority\" or \"count\"");
  }
  a.selection = selection == "count" ? Selection::kCount : Selection::kMajority;
  a.prefix = read.real("prefix", 0.25f);
  if (!(a.prefix >= 0.0f && a.prefix <= 1.0f)) {
    fail(a, "attribute prefix is " + std::to_string(a.prefix) + "; it is a share, 0 to 1");
  }
  return a;
}

AttentionAttributes hard_attention_attributes(const ort::OrtApi& api, const ort::OrtKernelInfo* info) {
  const Attributes read(api, info, "HardAttention");
  return common_attributes(read, read.integer("k", 30));
}

AttentionShape attention_shape(const AttentionAttributes& a, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& key_mask) {
  if (!q.present() || !k.present() || !v.present()) fail(a, "inputs Q, K and V are required");
  const size_t rank = q.dims.size();
  if (rank != 3 && rank != 4) {
    fail(a, "Q has shape " + show(q.dims) + "; it must be (batch, heads, queries, head size), or (batch, queries, "
            "heads * head size) with attribute num_heads");
  }
  if (k.dims.size() != rank || v.dims.size() != rank) {
    fail(a, "Q has rank " + std::to_string(rank) + ", K " + std::to_string(k.dims.size()) + " and V " +
                std::to_string(v.dims.size()) + "; all three must have the same rank");
  }
  AttentionShape s{};
  const bool packed = rank == 3;
  if (packed) {
    if (a.num_heads == 0) fail(a, "attribute num_heads is required when Q, K and V have rank 3");
    for (const Tensor* t : {&q, &k, &v}) {
      if (t->dims[2] % a.num_heads != 0) {
        fail(a, "a last dimension of " + std::to_string(t->dims[2]) + " does not divide into num_heads = " +
                    std::to_string(a.num_heads) + " heads");
      }
    }
    s.batch = q.dims[0];
    s.heads = a.num_heads;
    s.queries = q.dims[1];
    s.keys = k.dims[1];
    s.head_size = q.dims[2] / s.heads;
    s.value_size = v.dims[2] / s.heads;
    if (k.dims[2] != q.dims[2]) {
      fail(a, "Q " + show(q.dims) + " and K " + show(k.dims) + " must have the same last dimension");
    }
    if (k.dims[0] != s.batch || v.dims[0] != s.batch || v.dims[1] != s.keys) {
      fail(a, "Q " + show(q.dims) + ", K " + show(k.dims) + " and V " + show(v.dims) +
                  " must have the same batch, and K and V the same number of keys");
    }
    s.output = {s.batch, s.queries, s.heads * s.value_size};
  } else {
    s.batch = q.dims[0];
    s.heads = q.dims[1];
    s.queries = q.dims[2];
    s.keys = k.dims[2];
    s.head_size = q.dims[3];
    s.value_size = v.dims[3];
    if (a.num_heads != 0 && a.num_heads != s.heads) {
      fail(a, "attribute num_heads is " + std::to_string(a.num_heads) + ", but Q has " + std::to_string(s.heads) +
                  " heads; leave it out for inputs of rank 4");
    }
    if (k.dims[3] != s.head_size) {
      fail(a, "Q " + show(q.dims) + " and K " + show(k.dims) + " must have the same head size");
    }
    if (k.dims[0] != s.batch || v.dims[0] != s.batch || k.dims[1] != s.heads || v.dims[1] != s.heads ||
        v.dims[2] != s.keys) {
      fail(a, "Q " + show(q.dims) + ", K " + show(k.dims) + " and V " + show(v.dims) +
                  " must have the same batch and heads, and K and V the same number of keys");
    }
    s.output = {s.batch, s.heads, s.queries, s.value_size};
  }
  if (s.head_size < 1) fail(a, "the head size of Q " + show(q.dims) + " must be 1 or more");
  if (s.keys > INT32_MAX || s.queries > INT32_MAX || s.head_size > (int64_t{1} << 30) / (s.queries + 1)) {
    fail(a, "Q " + show(q.dims) + " and K " + show(k.dims) + " are too long: queries * head size must stay below 2^30");
  }
  if (a.causal && s.queries != s.keys) {
    fail(a, "is_causal = 1 needs as many queries as keys, but there are " + std::to_string(s.queries) +
                " queries and " + std::to_string(s.keys) + " keys");
  }
  if (key_mask.present() &&
      (key_mask.dims.size() != 2 || key_mask.dims[0] != s.batch || key_mask.dims[1] != s.keys)) {
    fail(a, "key_mask has shape " + show(key_mask.dims) + "; it must be (batch, keys) = " + show({s.batch, s.keys}));
  }
  s.scale = a.scale != 0.0f ? a.scale : 1.0f / std::sqrt(static_cast<float>(s.head_size));
  s.q = strides_of(packed, s.heads, s.queries, s.head_size);
  s.k = strides_of(packed, s.heads, s.keys, s.head_size);
  s.v = strides_of(packed, s.heads, s.keys, s.value_size);
  s.y = strides_of(packed, s.heads, s.queries, s.value_size);
  return s;
}

namespace {

// The dims and symbolic names of an input; an empty rank also stands for an unknown shape.
struct InferredShape {
  Dims dims;
  std::vector<std::string> names;
};

InferredShape inferred(const ort::OrtApi& api, ort::OrtShapeInferContext* context, size_t index) {
  ort::OrtTensorTypeAndShapeInfo* info = nullptr;  // borrowed
  check(api.ShapeInferContext_GetInputTypeShape(context, index, &info));
  InferredShape shape;
  size_t rank = 0;
  check(api.GetDimensionsCount(info, &rank));
  shape.dims.resize(rank);
  std::vector<const char*> names(rank, nullptr);
  if (rank != 0) {
    check(api.GetDimensions(info, shape.dims.data(), rank));
    check(api.GetSymbolicDimensions(info, names.data(), rank));
  }
  for (const char* name : names) shape.names.emplace_back(name ? name : "");
  return shape;
}

}  // namespace

void infer_attention_shape(const ort::OrtApi& api, ort::OrtShapeInferContext* context) {
  const InferredShape q = inferred(api, context, 0);
  const InferredShape v = inferred(api, context, 2);
  const size_t rank = q.dims.size();
  if ((rank != 3 && rank != 4) || v.dims.size() != rank) return;
  InferredShape y = q;
  y.dims.back() = v.dims.back();
  y.names.back() = v.names.back();
  std::vector<const char*> names;
  for (size_t i = 0; i < rank; ++i) {
    if (y.dims[i] < 0 && y.names[i].empty()) return;  // a dim that nothing is known of cannot be passed on
    names.push_back(y.names[i].c_str());
  }
  ort::OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api.CreateTensorTypeAndShapeInfo(&info));
  ort::OrtTensorTypeAndShapeInfo* element = nullptr;
  ort::ONNXTensorElementDataType type = ort::ELEMENT_UNDEFINED;
  ort::OrtStatus* status = api.ShapeInferContext_GetInputTypeShape(context, 0, &element);
  if (status == nullptr) status = api.GetTensorElementType(element, &type);
  if (status == nullptr) status = api.SetTensorElementType(info, type);
  if (status == nullptr) status = api.SetDimensions(info, y.dims.data(), rank);
  if (status == nullptr) status = api.SetSymbolicDimensions(info, names.data(), rank);
  if (status == nullptr) status = api.ShapeInferContext_SetOutputTypeShape(context, 0, info);
  api.ReleaseTensorTypeAndShapeInfo(info);
  check(status);
}

}  // namespace axform
