// A call on raw pointers instead of ONNX Runtime's tensors.
#pragma once

#include "attention_shape.h"

namespace axform::cuda {

struct RawCall {
  AttentionAttributes attributes;
  AttentionShape shape;

  // sizes: batch, heads, queries, keys, head size, value size. packed: tensors are (batch, rows, heads * size).
  RawCall(const char* place, const int64_t* sizes, bool packed, bool has_mask, int64_t kept, float scale, bool causal,
          bool by_count, float prefix) {
    attributes.place = place;
    attributes.k = kept;
    attributes.num_heads = packed ? sizes[1] : 0;
    attributes.scale = scale;
    attributes.causal = causal;
    attributes.selection = by_count ? Selection::kCount : Selection::kMajority;
    attributes.prefix = prefix;
    const auto* present = reinterpret_cast<const ort::OrtValue*>(sizes);
    auto tensor = [&](int64_t rows, int64_t size) {
      Tensor t;
      t.value = present;
      t.dims = packed ? Dims{sizes[0], rows, sizes[1] * size} : Dims{sizes[0], sizes[1], rows, size};
      return t;
    };
    Tensor mask;
    if (has_mask) {
      mask.value = present;
      mask.dims = {sizes[0], sizes[3]};
    }
    shape = attention_shape(attributes, tensor(sizes[2], sizes[4]), tensor(sizes[3], sizes[4]),
                            tensor(sizes[3], sizes[5]), mask);
  }
};

}  // namespace axform::cuda
