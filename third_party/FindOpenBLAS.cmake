# FindOpenBLAS.cmake - OpenBLAS_LIBRARY: OpenBLAS with its LAPACK, the flavour that shares our OpenMP threads first. Its
# symbols are declared in eval/linalg.c, which opens it at first use: no header is needed, and nothing is linked.
find_library(OpenBLAS_LIBRARY openblas PATH_SUFFIXES openblas-openmp openblas-pthread openblas-serial)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenBLAS REQUIRED_VARS OpenBLAS_LIBRARY)
