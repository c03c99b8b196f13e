// elivepatch: seconds=5 memory=16
#include <stdio.h>
#include <string.h>

/* Ends with 1 while a line of /proc/meminfo is not in capitals, and with 0 once it is. */
int main(void)
{
	char line[256];
	FILE *file = fopen("/proc/meminfo", "r");

	while (file && fgets(line, sizeof(line), file)) {
		if (strncasecmp(line, "VmallocChunk:", 13) != 0)
			continue;
		printf("%s", line);
		return strncmp(line, "VMALLOCCHUNK:", 13) != 0;
	}
	return 77; /* a kernel without this line cannot be tried */
}
