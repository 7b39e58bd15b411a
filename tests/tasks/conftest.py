"""What all tests of this folder share."""

from no_flush import no_flush as no_flush
