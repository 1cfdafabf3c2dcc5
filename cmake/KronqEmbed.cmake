# kronq_embed(ROOM FILE NAME): the bytes of FILE become `const unsigned char NAME[]` and `const size_t NAME_size` in the room's library.
function(kronq_embed room file name)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${hex}")
  set(source ${CMAKE_BINARY_DIR}/embedded/${name}.c)
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT
       "#include <stddef.h>\nextern const unsigned char ${name}[];\nextern const size_t ${name}_size;\nconst unsigned char ${name}[] = {@bytes@};\nconst size_t ${name}_size = sizeof ${name};\n")
  target_sources(kq_${room}_obj PRIVATE ${source})
endfunction()
