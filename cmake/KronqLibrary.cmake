# libkronq from the objects of every room, the program `kronq`, and what is installed.
include(GNUInstallDirs)
set(objects "")
foreach(room ${KRONQ_ROOMS})
  list(APPEND objects $<TARGET_OBJECTS:kq_${room}_obj>)
endforeach()
get_property(libs GLOBAL PROPERTY KRONQ_ROOM_LIBS)
list(REMOVE_DUPLICATES libs)

add_library(kronq STATIC ${objects})
target_link_libraries(kronq PUBLIC kronq_flags ${libs})

file(GLOB cli_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cli/*.c)
add_executable(kronq_cli ${cli_sources})
set_target_properties(kronq_cli PROPERTIES OUTPUT_NAME kronq)
target_link_libraries(kronq_cli PRIVATE kronq)

configure_file(${CMAKE_SOURCE_DIR}/cmake/kronq.pc.in ${CMAKE_BINARY_DIR}/kronq.pc @ONLY)
install(TARGETS kronq_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS kronq ARCHIVE DESTINATION lib)
install(FILES ${CMAKE_SOURCE_DIR}/include/kronq.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${CMAKE_BINARY_DIR}/kronq.pc DESTINATION lib/pkgconfig)
