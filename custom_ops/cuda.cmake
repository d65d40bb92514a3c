# The CUDA kernels, linked with a static CUDA runtime: the library also loads where there is neither GPU nor driver.
target_sources(axform_ops PRIVATE src/cuda/launch.cu src/cuda/plan.cc src/cuda/entry.cc)
string(REPLACE ";" " " architectures "${CMAKE_CUDA_ARCHITECTURES}")
string(REPLACE "-real" "" architectures "${architectures}")
target_compile_definitions(axform_ops PRIVATE AXFORM_HAVE_CUDA AXFORM_CUDA_ARCHITECTURES="${architectures}")
set_target_properties(axform_ops PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_RUNTIME_LIBRARY Static
                      CUDA_VISIBILITY_PRESET hidden)
target_compile_options(axform_ops PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr;--threads=0>")
option(AXFORM_CUDA_VERBOSE "Print registers, shared memory and spills of each kernel" OFF)
if(AXFORM_CUDA_VERBOSE)
  target_compile_options(axform_ops PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-v>")
endif()
