# tests/emu/planted.cmake - planted faults that the emulation must find. Sanitizers of the compiler replace its checker.
add_emu_objects(planted_EMU planted.cu)
add_executable(emu_planted emu/planted.c $<TARGET_OBJECTS:planted_EMU>)
target_compile_definitions(emu_planted PRIVATE TESTS_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
target_link_libraries(emu_planted PRIVATE cbdm_core)
if(NOT CBDM_SANITIZE)
  add_test(NAME emu_planted COMMAND emu_planted)
  set_tests_properties(emu_planted PROPERTIES LABELS emu TIMEOUT 300)
endif()

add_test(NAME check_words COMMAND sh ${CMAKE_CURRENT_SOURCE_DIR}/check_words.sh ${CMAKE_SOURCE_DIR})
set_tests_properties(check_words PROPERTIES LABELS emu TIMEOUT 60)
