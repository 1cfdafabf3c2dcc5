# What others get: the shared library libkronq.so, the static one libkronq.a, the program `kronq`, and what is installed beside them.
# Only the functions of kronq.h are visible from outside. All others are hidden (-fvisibility=hidden), so that no name of ours can meet a host's own.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(objects "")
foreach(room ${KRONQ_ROOMS})
  list(APPEND objects $<TARGET_OBJECTS:kq_${room}_obj>)
endforeach()
get_property(libs GLOBAL PROPERTY KRONQ_ROOM_LIBS)
list(REMOVE_DUPLICATES libs)

# Until 1.0 a new minor version may change the interface, so the SONAME has both numbers.
add_library(kronq_shared SHARED ${objects})
set_target_properties(kronq_shared PROPERTIES OUTPUT_NAME kronq VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
target_link_libraries(kronq_shared PRIVATE kronq_flags ${libs})
target_link_options(kronq_shared PRIVATE -Wl,--version-script=${CMAKE_SOURCE_DIR}/cmake/kronq.map)
target_include_directories(kronq_shared INTERFACE ${CMAKE_SOURCE_DIR}/include)
add_library(kronq::kronq ALIAS kronq_shared) # as find_package(kronq) calls it
set_target_properties(kronq_shared PROPERTIES LINK_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/kronq.map)

# An archive has no visibility of its own: all objects become one, and what is hidden becomes local to it.
set(whole ${CMAKE_BINARY_DIR}/kronq_whole.o)
add_custom_command(OUTPUT ${whole} DEPENDS ${objects} COMMAND_EXPAND_LISTS VERBATIM COMMENT "Joining the objects of libkronq.a"
  COMMAND ${CMAKE_C_COMPILER} -r -nostdlib -o ${whole} ${objects}
  COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${whole})
add_library(kronq_static STATIC ${whole})
set_target_properties(kronq_static PROPERTIES OUTPUT_NAME kronq LINKER_LANGUAGE C)

# The program is a user of the library like any other: it sees include/ only, and the linker finds nothing in libkronq.a but what kronq.h declares.
file(GLOB cli_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cli/*.c)
add_executable(kronq_cli ${cli_sources})
set_target_properties(kronq_cli PROPERTIES OUTPUT_NAME kronq)
target_include_directories(kronq_cli PRIVATE ${CMAKE_SOURCE_DIR}/include)
target_link_libraries(kronq_cli PRIVATE kronq_compile kronq_static ${libs} PkgConfig::JANSSON)

# What a program needs beside libkronq.a. (As Requires.private in the pkg-config file they would give their compile flags to everybody.)
set(KRONQ_STATIC_LIBS jansson pcre2-8 utf8proc xxhash z zstd openblas microhttpd dnnl gomp m)
list(TRANSFORM KRONQ_STATIC_LIBS PREPEND -l OUTPUT_VARIABLE KRONQ_PC_STATIC)
list(JOIN KRONQ_PC_STATIC " " KRONQ_PC_STATIC)
file(RELATIVE_PATH KRONQ_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${CMAKE_SOURCE_DIR}/cmake/kronq.pc.in ${CMAKE_BINARY_DIR}/kronq.pc @ONLY)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kronq)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/kronq-config.cmake.in ${CMAKE_BINARY_DIR}/kronq-config.cmake INSTALL_DESTINATION ${package_dir}
                              PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/kronq-config-version.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS kronq_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS kronq_shared kronq_static LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${CMAKE_SOURCE_DIR}/include/kronq.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/kronq.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(FILES ${CMAKE_BINARY_DIR}/kronq-config.cmake ${CMAKE_BINARY_DIR}/kronq-config-version.cmake DESTINATION ${package_dir})
install(FILES ${CMAKE_SOURCE_DIR}/LICENSE ${CMAKE_SOURCE_DIR}/README.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
