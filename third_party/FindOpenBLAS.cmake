# FindOpenBLAS.cmake - OpenBLAS with its LAPACK: target OpenBLAS::OpenBLAS. The flavour that shares our OpenMP threads
# first; its symbols are declared in eval/linalg.c, so that no header is needed.
find_library(OpenBLAS_LIBRARY openblas PATH_SUFFIXES openblas-openmp openblas-pthread openblas-serial)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenBLAS REQUIRED_VARS OpenBLAS_LIBRARY)
if(OpenBLAS_FOUND AND NOT TARGET OpenBLAS::OpenBLAS)
  add_library(OpenBLAS::OpenBLAS UNKNOWN IMPORTED)
  set_target_properties(OpenBLAS::OpenBLAS PROPERTIES IMPORTED_LOCATION ${OpenBLAS_LIBRARY})
endif()
