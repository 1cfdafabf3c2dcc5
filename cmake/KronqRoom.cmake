# kronq_room(NAME [DEPS room...] [LIBS target...]): src/NAME/*.c and src/NAME/x86/*.c become the static library kq_NAME.
# kronq_room_tests(NAME [DEPS room...]): each tests/NAME/test_WHAT.c becomes one cmocka program (target NAME_test_WHAT), run by ctest.
set(KRONQ_ROOMS "" CACHE INTERNAL "")

add_library(kronq_flags INTERFACE)
target_compile_definitions(kronq_flags INTERFACE _GNU_SOURCE)
target_include_directories(kronq_flags INTERFACE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
# -ffp-contract=off: a plain C reference must not depend on whether the compiler may fuse; kernels ask for FMA by name.
target_compile_options(kronq_flags INTERFACE -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes
                       -Wmissing-prototypes -Wvla -ffp-contract=off $<$<BOOL:${KRONQ_WERROR}>:-Werror>)
target_link_libraries(kronq_flags INTERFACE OpenMP::OpenMP_C m)
if(KRONQ_SANITIZE)
  target_compile_options(kronq_flags INTERFACE -fsanitize=${KRONQ_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(kronq_flags INTERFACE -fsanitize=${KRONQ_SANITIZE})
endif()

if(KRONQ_FUZZ)
  target_compile_options(kronq_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(kronq_room name)
  cmake_parse_arguments(R "" "" "DEPS;LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.c ${CMAKE_SOURCE_DIR}/src/${name}/x86/*.c)
  add_library(kq_${name}_obj OBJECT ${sources})
  add_library(kq_${name} STATIC $<TARGET_OBJECTS:kq_${name}_obj>)
  target_link_libraries(kq_${name}_obj PUBLIC kronq_flags ${R_LIBS})
  target_link_libraries(kq_${name} PUBLIC kronq_flags ${R_LIBS})
  foreach(dep ${R_DEPS})
    target_link_libraries(kq_${name} PUBLIC kq_${dep})
  endforeach()
  set(KRONQ_ROOMS ${KRONQ_ROOMS} ${name} CACHE INTERNAL "")
  set_property(GLOBAL APPEND PROPERTY KRONQ_ROOM_LIBS ${R_LIBS})
endfunction()

function(kronq_room_tests name)
  cmake_parse_arguments(R "" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/test_*.c)
  foreach(source ${sources})
    get_filename_component(test ${source} NAME_WE)
    set(target ${name}_${test}) # two rooms may have tests of one name
    add_executable(${target} ${source})
    set_target_properties(${target} PROPERTIES OUTPUT_NAME ${test})
    target_include_directories(${target} PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    target_compile_definitions(${target} PRIVATE KRONQ_GOLDEN_DIR="${CMAKE_SOURCE_DIR}/tests/golden")
    target_link_libraries(${target} PRIVATE kq_${name} PkgConfig::CMOCKA)
    foreach(dep ${R_DEPS})
      target_link_libraries(${target} PRIVATE kq_${dep})
    endforeach()
    add_test(NAME ${name}/${test} COMMAND ${target} WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
    set_tests_properties(${name}/${test} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900)
  endforeach()
endfunction()

# kronq_room_fuzz(NAME WHAT): tests/NAME/fuzz_WHAT.c becomes a program of libFuzzer (clang, cmake -DKRONQ_FUZZ=ON), run as build/.../fuzz_WHAT CORPUS_DIR.
# tests/NAME/test_fuzz_WHAT.c runs the same function over fixed mutations in every test run.
function(kronq_room_fuzz name what)
  if(NOT KRONQ_FUZZ)
    return()
  endif()
  add_executable(fuzz_${what} fuzz_${what}.c)
  target_compile_options(fuzz_${what} PRIVATE -fsanitize=fuzzer)
  target_link_options(fuzz_${what} PRIVATE -fsanitize=fuzzer)
  target_link_libraries(fuzz_${what} PRIVATE kq_${name})
endfunction()
