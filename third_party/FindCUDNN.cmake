# FindCUDNN.cmake - cuDNN beside the CUDA toolkit, in the system, or in python's site-packages (pip's nvidia-cudnn-cu12
# and its like): CUDNN_INCLUDE_DIR, CUDNN_LIBRARY, CUDNN_VERSION.
# CUDNN_ROOT names another place.
set(cudnn_places ${CUDNN_ROOT} $ENV{CUDNN_ROOT} ${CUDAToolkit_ROOT} ${CUDAToolkit_LIBRARY_ROOT}
  ${CUDAToolkit_TARGET_DIR})
find_program(CUDNN_PYTHON NAMES python3 python)
if(CUDNN_PYTHON)
  execute_process(COMMAND ${CUDNN_PYTHON} -c "import sys; print(';'.join(p + '/nvidia/cudnn' for p in sys.path if p))"
    OUTPUT_VARIABLE cudnn_python OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  list(APPEND cudnn_places ${cudnn_python})
endif()
find_path(CUDNN_INCLUDE_DIR cudnn_version.h HINTS ${cudnn_places} ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include)
# pip's packages have no libcudnn.so, only that with the version.
find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${cudnn_places} ${CUDAToolkit_LIBRARY_DIR}
  PATH_SUFFIXES lib lib64)
if(CUDNN_INCLUDE_DIR)
  foreach(part MAJOR MINOR PATCHLEVEL)
    file(STRINGS ${CUDNN_INCLUDE_DIR}/cudnn_version.h line REGEX "#define CUDNN_${part} +[0-9]+")
    string(REGEX REPLACE ".*[ ]([0-9]+).*" "\\1" CUDNN_VERSION_${part} "${line}")
  endforeach()
  set(CUDNN_VERSION "${CUDNN_VERSION_MAJOR}.${CUDNN_VERSION_MINOR}.${CUDNN_VERSION_PATCHLEVEL}")
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(CUDNN REQUIRED_VARS CUDNN_LIBRARY CUDNN_INCLUDE_DIR VERSION_VAR CUDNN_VERSION)
