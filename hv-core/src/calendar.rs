//! The date as the battery-backed clock of a PC tells it.

/// Format register: hours count to 24.
const HOURS_24: u8 = 1 << 1;
/// Format register: numbers are binary, not decimal digits.
const BINARY: u8 = 1 << 2;
/// Hour register: afternoon, when hours count to 12.
const AFTERNOON: u8 = 1 << 7;

/// Seconds since 1970 from seconds, minutes, hours, day, month, year, century, and the format register.
pub fn seconds_since_1970([second, minute, hour, day, month, year, century, format]: [u8; 8]) -> u64 {
    let number =
        |value: u8| u64::from(if format & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) });
    let mut hours = number(hour & !AFTERNOON);
    if format & HOURS_24 == 0 {
        hours = hours % 12 + if hour & AFTERNOON != 0 { 12 } else { 0 };
    }
    let century = match number(century) {
        century @ 19..=29 => century,
        _ => 20,
    };
    let days = days_since_1970(century * 100 + number(year), number(month), number(day));
    ((days * 24 + hours) * 60 + number(minute)) * 60 + number(second)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, counting years from March so that the leap day is last.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let month = month.clamp(1, 12);
    let year = year - u64::from(month <= 2);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.max(1) - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
    const DAYS_TO_1970: u64 = 719_468;
    days.saturating_sub(DAYS_TO_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_and_binary_clocks_agree() {
        let expected = 1_767_225_600 + 3661; // 2026-01-01 01:01:01
        assert_eq!(seconds_since_1970([0x01, 0x01, 0x01, 0x01, 0x01, 0x26, 0x20, HOURS_24]), expected);
        assert_eq!(seconds_since_1970([1, 1, 1, 1, 1, 26, 20, HOURS_24 | BINARY]), expected);
    }

    #[test]
    fn twelve_hour_clocks_know_noon_and_midnight() {
        let at = |hour| seconds_since_1970([0, 0, hour, 1, 1, 26, 20, BINARY]) - 1_767_225_600;
        assert_eq!(at(12), 0, "12 at night");
        assert_eq!(at(12 | AFTERNOON), 12 * 3600, "noon");
        assert_eq!(at(1 | AFTERNOON), 13 * 3600);
    }

    #[test]
    fn leap_days_count() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1) - days_since_1970(2000, 2, 28), 2);
        assert_eq!(days_since_1970(2100, 3, 1) - days_since_1970(2100, 2, 28), 1);
    }
}
